"""Autotune: settings that a cell goes fastest with, on one of its GPUs. Made when asked for.

Reads   the runs' settings
Writes  autotune.yaml in each run's folder: overrides, for `variants` of the study file
"""

from study.jobs.workflow import AutotuneRequest

AUTOTUNE = AutotuneRequest(GRID)


rule autotune:
    """Micro-batch, recomputation and compilation that suit every measured cell best"""
    input:
        [f"{cell.folder}/autotune.yaml" for cell in GRID.measured],


rule autotune_run:
    """Choose micro-batch, recomputation and compilation of one run by timing its steps"""
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
