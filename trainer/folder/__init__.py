"""The files in a run's folder: records, run.json, checkpoints, traces, failures."""
