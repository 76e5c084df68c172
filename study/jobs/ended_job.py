"""What is known of a Slurm job that has ended: by its run's files, its logs and squeue."""

from pathlib import Path

from study.jobs.job_script import ran_out_of_memory
from study.jobs.slurm_jobs import QueuedJob
from study.jobs.slurm_queue import WatchedJob
from study.jobs.slurm_request import error_file, log_of_job
from study.jobs.verdict import End, is_time_up
from study.measure.summaries import is_up_to_date, read_summary


def describe_end(info: WatchedJob, state: str, queued: QueuedJob | None) -> End:
    """Return the end of a job. Raises ConfigError if its run.json is malformed.

    `queued`: the job as squeue lists it, if it does.
    """
    cell = info.cell
    slurm = cell.cluster_config.slurm if cell else None
    summary, before = read_summary(cell.folder) if cell else None, info.before
    complete = is_up_to_date(cell) if cell else state == "COMPLETED"
    if summary == before and state != "COMPLETED":
        complete = False  # it was to train a complete run again, as its text has changed
    if before and summary and before.attempts[0].start != summary.attempts[0].start:
        before = None  # of a run with other settings or text, which was set aside
    if info.kept:
        before = None  # its own attempt may be in there
    saved = (
        summary is not None
        and summary.attempts[-1].status == "preempted"
        and len(summary.attempts) > (len(before.attempts) if before else 0)
    )
    return End(
        state=state,
        complete=complete,
        saved_step=summary.steps_done if summary and saved else None,
        first_step=before.steps_done if before else 0,
        out_of_memory=state in ("FAILED", "OUT_OF_MEMORY") and ran_out_of_memory(logs_of(info)),
        time_up=slurm is not None
        and queued is not None
        and is_time_up(queued.used_s, queued.limit_s, slurm.warn_s),
        kept=info.kept,
    )


def logs_of(info: WatchedJob) -> list[Path]:
    """Return the files that a job and Slurm have printed to: its log, and that of its errors."""
    errors = error_file(info.cell.cluster_config.slurm) if info.cell else None
    return [Path(info.made.log), *([log_of_job(errors, info.made.job_id)] if errors else [])]
