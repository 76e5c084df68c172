"""Why another trainer's run failed, from its exit code and its last lines of output."""

import contextlib
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from study.jobs.foreign_job import ForeignJob
from trainer.files import write_atomically
from trainer.records import FAILURE, Failure

LAST_LINES, KEPT_LINES = 15, 200
"""Lines of output in the message of a failure, and lines among which they are found."""

SUMMARY_OF_TORCHRUN = re.compile(r"torch.distributed.elastic.*failed \(exitcode")
"""The line after which torchrun says which ranks failed; the reason is before it."""

OUT_OF_MEMORY = ("OutOfMemoryError", "CUDA out of memory", "HIP out of memory")
"""What the output of a trainer that ran out of GPU memory contains."""


def failure_of(
    job: ForeignJob, code: int, last_step: int, asked: int | None, lines: Sequence[str]
) -> Failure:
    """Return the content of failure.json of an attempt that ended at a step.

    `asked`: the signal by which it was asked to stop; `lines`: the last `KEPT_LINES` of output.
    """
    name, log, done = job.trainer, job.log, f"step {last_step} of {job.steps}"
    if asked is not None:
        what = signal.Signals(asked).name
        message = f"{name} was stopped by {what} at {done}. It does not resume: a retry starts"
        return Failure(retry=True, message=f"{message} afresh.")
    if code == 0 and last_step == 0:
        where = "in its output" if log.file is None else f"in {log.file}"
        message = f"{name} ended with code 0, but no step was found {where}"
        expected = "expected lines that `log` in trainers.yaml describes"
        return Failure(retry=False, message=f"{message}; {expected} (format {log.format})")
    if code == 0:
        return Failure(retry=True, message=f"{name} ended with code 0 at {done}")
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
    end = next((i for i, line in enumerate(lines) if SUMMARY_OF_TORCHRUN.search(line)), None)
    output = "\n".join(lines[:end][-LAST_LINES:])
    message = f"{name} failed with {how} at {done}. Its last lines:\n{output}"
    if any(word in output for word in OUT_OF_MEMORY):
        return Failure(kind="gpu_out_of_memory", retry=False, message=message)
    return Failure(retry=True, message=message)


def refusal_of(job: ForeignJob, problem: str) -> Failure:
    """Return the content of failure.json of an attempt whose log cannot be as it is described."""
    where = f"`log` of {job.trainer} in trainers.yaml (format {job.log.format})"
    return Failure(kind="configuration", retry=False, message=f"{where}: {problem}")


def write_failure(folder: Path, failure: Failure) -> None:
    """Write the failure.json of a run, if that is possible."""
    with contextlib.suppress(OSError):
        write_atomically(folder / FAILURE, failure.to_json() + "\n")
