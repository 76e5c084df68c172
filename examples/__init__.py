"""Examples of other trainers, for config/trainers.yaml."""
