"""Training: one run for each measured cell of the grid.

Reads   the grid, <results>/data/<source>.json and the shards that it names
Reads   code that a warm-up has compiled
Writes  run.yaml, the complete settings of the run
Writes  metrics.jsonl, run.json, checkpoints/: the trainer's, kept when a job fails, to go on from
Writes  completed: the run has ended, for the tables
"""

from pathlib import Path

from study.workflow import TrainingRequest

REQUEST = TrainingRequest(GRID)


rule run_config:
    """Write the complete settings of a run"""
    output:
        "<results>/<run>/run.yaml",
    log:
        "<results>/<run>/run_config.log",
    conda:
        "../../environment.yml"
    params:
        text=lambda wildcards: GRID.at(wildcards).run.to_yaml(),
    shell:
        "printf '%s' {params.text:q} > {output:q} 2> {log:q}"


rule train:
    """Train one cell of the grid, going on from its newest checkpoint"""
    input:
        config="<results>/<run>/run.yaml",
        data=lambda wildcards: collect(
            "<results>/data/{source}.json", source=GRID.at(wildcards).run.data.sources
        ),
        # Compiled code lasts: a warm-up that is done again does not make a run start again.
        compiled=lambda wildcards: ancient(WARM_UP.before(wildcards)),
    output:
        touch("<results>/<run>/completed"),
    log:
        "<results>/<run>/attempt.log",
    conda:
        "../../environment.yml"
    threads: REQUEST.threads
    resources:
        slurm_account=REQUEST.resource("slurm_account"),
        slurm_partition=REQUEST.resource("slurm_partition"),
        mem_mb=REQUEST.resource("mem_mb"),
        runtime=REQUEST.resource("runtime"),
        gres=REQUEST.resource("gres"),
        nodes=REQUEST.resource("nodes"),
        tasks=REQUEST.resource("tasks"),
        mpi=REQUEST.resource("mpi"),
        cpus_per_task=REQUEST.resource("cpus_per_task"),
        qos=REQUEST.resource("qos"),
        constraint=REQUEST.resource("constraint"),
        slurm_extra=REQUEST.resource("slurm_extra"),
    params:
        launch=REQUEST.launch,
        # Snakemake empties `log` at each start; this one keeps the attempts before.
        record=lambda wildcards: Path(GRID.at(wildcards).folder, "train.log"),
    shell:
        "{params.launch} config={input.config:q} 2>&1 | tee -i -a {log:q} {params.record:q}"
