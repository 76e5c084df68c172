"""What a run leaves in its folder: records, run.json, checkpoints, traces, failures."""
