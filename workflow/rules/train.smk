"""Training: one run for each measured cell of the grid.

Reads   the grid, <results>/data/<source>.json and the shards that it names
Reads   code that a precompile job has compiled
Writes  settings.yaml: what the trainer is asked to do
Writes  run.yaml, run.json, metrics.jsonl, checkpoints/: the trainer's, kept when a job fails
Writes  completed: run.json says so, with the cell's present settings; for the tables
"""

from pathlib import Path

from study.jobs.workflow import TrainingRequest

REQUEST = TrainingRequest(GRID)


rule train:
    """Train one cell of the grid, going on from its newest checkpoint"""
    input:
        data=lambda wildcards: collect(
            "<results>/data/{source}.json", source=GRID.at(wildcards).run.data.sources
        ),
        # Compiled code lasts: running that job again starts no run again.
        compiled=lambda wildcards: ancient(PRECOMPILE.before(wildcards)),
    output:
        touch("<results>/<run>/completed"),
    log:
        "<results>/<run>/attempt.log",
    conda:
        "../../environment.yml"
    threads: REQUEST.threads
    resources:
        **REQUEST.resources(),
    params:
        # Written to `config` when Snakemake starts its first job; see study/jobs/dispatch.py.
        settings=REQUEST.settings,
        config=lambda wildcards: Path(GRID.at(wildcards).folder, "settings.yaml"),
        launch=REQUEST.launch,
        # Snakemake empties `log` at each start; this one keeps the attempts before.
        record=lambda wildcards: Path(GRID.at(wildcards).folder, "train.log"),
    shell:
        "{params.launch} config={params.config:q} 2>&1 | tee -i -a {log:q} {params.record:q}"
