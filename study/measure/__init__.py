"""What was measured: the runs' files, the throughput table, evidence from elsewhere."""
