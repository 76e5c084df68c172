"""Runs another trainer's command and writes the run's folder from its log: run.json, metrics.jsonl,
metrics.eval.jsonl and, after a failure, failure.json.

    python -m study.jobs.foreign_run RUN_FOLDER -- COMMAND...

A stop request is forwarded as the trainer's own signal. The exit code is 0 if the run is complete,
75 if it was asked to stop and can go on, and 1 if it failed. On several nodes it is started once on
each; only that of the first one writes.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from study.jobs.command_process import find_program, run_beside
from study.jobs.foreign_failure import write_failure
from study.jobs.foreign_folder import set_aside
from study.jobs.foreign_job import ForeignJob, read_job
from study.jobs.gpu_watch import GpuWatch
from study.jobs.supervisor import Supervisor
from trainer.files import write_atomically
from trainer.folder.run_file import Lock, find_summary, wait_for_lock
from trainer.problems import ConfigError
from trainer.records import FAILURE, Failure
from trainer.startup import Startup


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    if len(arguments) < 3 or arguments[1] != "--":
        print("usage: python -m study.jobs.foreign_run RUN_FOLDER -- COMMAND...", file=sys.stderr)
        return 2
    startup = Startup()
    folder, command = Path(arguments[0]), arguments[2:]
    try:
        job = read_job(folder)
        find_program(command[0], job)
        GpuWatch(job.device, 1).check(job.gpu_name)
    except ConfigError as error:
        print(error, file=sys.stderr)
        refusal = Failure(kind="configuration", retry=False, message=str(error))
        write_failure(folder, refusal)
        return 1
    if int(os.environ.get("SLURM_PROCID") or 0) > 0:
        # Of a complete run, nobody on the first node would answer the command.
        return 0 if _is_complete(folder, job) else run_beside(job, command)
    return run(folder, job, command, startup)


def run(folder: Path, job: ForeignJob, command: Sequence[str], startup: Startup) -> int:
    """Start or resume a run, or report that it is complete; return the exit code."""
    lock = Lock(folder)
    wait_for_lock(folder, lock.try_acquire)
    try:
        (folder / FAILURE).unlink(missing_ok=True)
        if _is_complete(folder, job):
            print(f"{folder}: the run is complete already", flush=True)
            return 0
        earlier = find_summary(folder)
        previous = earlier.attempts if earlier and earlier.fingerprint == job.fingerprint else ()
        _prepare(folder, job, known=earlier is not None, again=bool(previous))
        return Supervisor(folder, job, command, previous, startup, lock).run()
    finally:
        lock.release()


def _is_complete(folder: Path, job: ForeignJob) -> bool:
    """Return whether a run with the job's settings is complete."""
    found = find_summary(folder)
    return found is not None and (found.fingerprint, found.status) == (job.fingerprint, "completed")


def _prepare(folder: Path, job: ForeignJob, known: bool, again: bool) -> None:
    """Set aside what this attempt does not go on with, and write the trainer's own config.

    `known`: an earlier attempt was made here; `again`: with the same settings.
    """
    if not again:
        set_aside(folder, job, "the settings have changed" if known else "found other files")
    elif not job.resumes:
        set_aside(folder, job, f"{job.trainer} does not resume, so it starts afresh")
    if job.config is not None:
        write_atomically(Path(job.config.file), job.config.text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
