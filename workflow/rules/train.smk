"""Training: one run for each measured cell of the grid.

Reads   the grid, <results>/data/<source>.json and the shards listed in it
Reads   the compiled code of a precompile job
Writes  settings.yaml: the trainer's input; of another trainer, its own config and trainer.json
Writes  run.yaml, run.json, metrics.jsonl, checkpoints/: by the trainer, kept if a job fails
Writes  completed: a run was completed; for the tables
"""

from study.jobs.requests import TrainingRequest, not_compared
from study.jobs.workflow import run_folders

REQUEST = TrainingRequest(GRID)
DISPATCHED, HERE = run_folders(GRID)


rule train:
    """Train one cell of the grid, resuming from its newest checkpoint"""
    input:
        data=REQUEST.data,
        # Compiled code persists: re-running the precompile job does not trigger training.
        compiled=PRECOMPILE.before,
        # Whether this run is up to date follows from its settings, which name that run's.
        trunk=REQUEST.trunk,
    output:
        touch(f"<results>/{DISPATCHED}/completed"),
    log:
        "<results>/<run>/attempt.log",
    conda:
        "../../environment.yml"
    threads: REQUEST.threads
    resources:
        **REQUEST.resources(),
    params:
        # Whether a run is up to date follows from its run.json; see study/jobs/outdated.py.
        # `settings` are written to `config` before the first job; see study/jobs/dispatch.py.
        settings=not_compared(REQUEST.settings),
        config=f"{STUDY.folder}/{RUN_FOLDER}/settings.yaml",
        launch=not_compared(REQUEST.launch),
        # Snakemake truncates `log` at each start; this file keeps earlier attempts.
        record=f"{STUDY.folder}/{RUN_FOLDER}/train.log",
    shell:
        "{params.launch} 2>&1 | tee -i -a {log:q} {params.record:q}"


use rule train as train_here with:
    output:
        touch(f"<results>/{HERE}/completed"),
    localrule: True
