"""Measurements: the runs' files, the throughput table, evidence from elsewhere."""
