"""Precompile: compile the code of all cells of one shape once, before any of them starts.

Reads   the grid
Writes  <results_dir>/compile_cache: compiled code for all runs
Writes  compiled: the cells may start

Only on Slurm partitions: study/jobs/precompile.py has the reason, and which cells wait.
"""

from pathlib import Path

from study.jobs.requests import PrecompileRequest

PRECOMPILE = PrecompileRequest(GRID)


rule precompile:
    """Compile for all cells of one shape, on one GPU"""
    output:
        touch("<results>/precompile/{cluster}/{shape}/compiled"),
    log:
        "<results>/precompile/{cluster}/{shape}/precompile.log",
    conda:
        "../../environment.yml"
    threads: PRECOMPILE.threads
    resources:
        **PRECOMPILE.resources(),
    params:
        settings=PRECOMPILE.settings,
        config=lambda wildcards, output: Path(output[0]).with_name("run.yaml"),
        launch=PRECOMPILE.launch,
    shell:
        "({params.launch} config={params.config:q}) > {log:q} 2>&1"
