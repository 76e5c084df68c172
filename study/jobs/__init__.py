"""From cells to jobs: resource requests, launch lines, and hooks for Snakemake and Slurm."""
