"""Autotune: the fastest settings for a cell, measured on one of its GPUs. Runs only on request.

Reads   the runs' settings
Writes  autotune.yaml in each run's folder: overrides for `variants` in the study file
"""

from study.jobs.requests import AutotuneRequest

AUTOTUNE = AutotuneRequest(GRID)


rule autotune:
    """The fastest micro-batch, activation checkpointing and compilation for every measured cell"""
    input:
        AUTOTUNE.files,
    localrule: True


rule autotune_run:
    """Choose micro-batch, activation checkpointing and compilation of one run by timing its steps"""
    output:
        "<results>/<run>/autotune.yaml",
    log:
        "<results>/<run>/autotune.log",
    conda:
        "../../environment.yml"
    threads: AUTOTUNE.threads
    resources:
        **AUTOTUNE.resources(),
    params:
        settings=AUTOTUNE.settings,
        config=lambda wildcards: f"{GRID.at(wildcards).folder}/autotune.settings.yaml",
        launch=AUTOTUNE.launch,
    shell:
        "({params.launch} config={params.config:q}) > {output:q} 2> {log:q}"
