"""Warm-up: what the cells of one shape compile is compiled once, before any of them starts.

Reads   the grid
Writes  <results>/compile_cache, in which all runs find compiled code
Writes  compiled: the cells may start

Only on Slurm partitions: study/warm_up.py says why, and which cells wait.
"""

from study.workflow import WarmUpRequest

WARM_UP = WarmUpRequest(GRID)


rule warm_up:
    """Compile for all cells of one shape, on one GPU"""
    output:
        settings="<results>/warm_up/{cluster}/{shape}/run.yaml",
        compiled=touch("<results>/warm_up/{cluster}/{shape}/compiled"),
    log:
        "<results>/warm_up/{cluster}/{shape}/warm_up.log",
    conda:
        "../../environment.yml"
    threads: WARM_UP.threads
    resources:
        **WARM_UP.resources(),
    params:
        settings=WARM_UP.settings,
        launch=WARM_UP.launch,
    shell:
        "printf '%s' {params.settings:q} > {output.settings:q}; "
        "({params.launch} config={output.settings:q}) > {log:q} 2>&1"
