"""Precompile: compile the code of all cells of one shape once, before any of them starts.

Reads   the grid
Writes  <results_dir>/compile_cache: compiled code for all runs
Writes  compiled: the cells may start

Only on Slurm partitions: study/jobs/precompile.py has the reason, and which cells wait.
"""

from study.jobs.workflow import PrecompileRequest

PRECOMPILE = PrecompileRequest(GRID)


rule precompile:
    """Compile for all cells of one shape, on one GPU"""
    output:
        settings="<results>/precompile/{cluster}/{shape}/run.yaml",
        compiled=touch("<results>/precompile/{cluster}/{shape}/compiled"),
    log:
        "<results>/precompile/{cluster}/{shape}/precompile.log",
    conda:
        "../../environment.yml"
    threads: PRECOMPILE.threads
    resources:
        **PRECOMPILE.resources(),
    params:
        settings=PRECOMPILE.settings,
        launch=PRECOMPILE.launch,
    shell:
        "printf '%s' {params.settings:q} > {output.settings:q}; "
        "({params.launch} config={output.settings:q}) > {log:q} 2>&1"
