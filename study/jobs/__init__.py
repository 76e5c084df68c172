"""From cells to jobs: requests, launch lines, what Snakemake and Slurm are told."""
