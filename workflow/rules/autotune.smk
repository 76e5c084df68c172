"""Autotune: settings that a cell goes fastest with, on one of its GPUs. Made when asked for.

Reads   the runs' settings
Writes  autotune.yaml in each run's folder: overrides, for `variants` of the study file
"""

from study.workflow import AutotuneRequest

AUTOTUNE = AutotuneRequest(GRID)


rule autotune:
    """Micro-batch, recomputation and compilation that suit every measured cell best"""
    input:
        [f"{cell.folder}/autotune.yaml" for cell in GRID.measured],


rule autotune_run:
    """Choose micro-batch, recomputation and compilation of one run by timing its steps"""
    input:
        "<results>/<run>/run.yaml",
    output:
        "<results>/<run>/autotune.yaml",
    log:
        "<results>/<run>/autotune.log",
    conda:
        "../../environment.yml"
    threads: AUTOTUNE.threads
    resources:
        slurm_account=AUTOTUNE.resource("slurm_account"),
        slurm_partition=AUTOTUNE.resource("slurm_partition"),
        mem_mb=AUTOTUNE.resource("mem_mb"),
        runtime=AUTOTUNE.resource("runtime"),
        gres=AUTOTUNE.resource("gres"),
        cpus_per_task=AUTOTUNE.resource("cpus_per_task"),
        qos=AUTOTUNE.resource("qos"),
        constraint=AUTOTUNE.resource("constraint"),
        slurm_extra=AUTOTUNE.resource("slurm_extra"),
    params:
        launch=AUTOTUNE.launch,
    shell:
        "({params.launch} config={input:q}) > {output:q} 2> {log:q}"
