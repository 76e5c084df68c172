"""Flags of Snakemake and of its Slurm plugin: what the executors here do about some of them."""

from typing import Any

IMMEDIATE_SUBMIT = (
    "--immediate-submit: jobs would start before the files that they read exist, and be reported "
    "as finished when they are submitted; leave it out"
)

EXECUTORS = ("local", "slurm", "touch", "dryrun")
"""Snakemake's executors that a study can be run with."""

NOT_FOLLOWED = {
    "array_jobs": "all jobs of an array would have the request of the first; leave it out",
    "logdir": "the logs are below the study's folder of results; expected `slurm.output`",
    "exclude_failed_nodes": "expected `slurm.exclude`",
    "no_account": "a cluster without `slurm.account` has none",
    "jobname_prefix": "a job's name is its study, model and GPUs; leave it out",
    "efficiency_report": "it knows neither these jobs nor GPUs; expected throughput.csv",
}
"""A setting of the plugin -> why it has no effect, and what to do instead."""


def find_not_followed(workflow: Any) -> list[str]:
    """Return a line for each flag, given on the command line or in a profile, that an invocation
    cannot follow."""
    found = [IMMEDIATE_SUBMIT] if workflow.remote_execution_settings.immediate_submit else []
    name = workflow.executor_plugin.name
    if name not in EXECUTORS:
        found.append(f"--executor {name}: cells are trained on this machine or by `slurm`")
    given = workflow.executor_settings
    return found + [
        f"--slurm-{name.replace('_', '-')}: {why}"
        for name, why in NOT_FOLLOWED.items()
        if getattr(given, name, None)
    ]


def find_pace(workflow: Any) -> float:
    """Return the least time between two submissions by --max-jobs-per-timespan, s."""
    rate = workflow.scheduling_settings.max_jobs_per_timespan
    return float(rate.timespan / max(1, rate.max_jobs)) if rate else 0.0
