"""What failure.json says of another trainer's failure."""

import signal
from pathlib import Path

import pytest

from study.jobs.foreign_failure import LAST_LINES, failure_of, write_failure
from study.jobs.foreign_job import ForeignJob
from study.measure.summaries import read_failure
from trainer.records import Failure

JOB = ForeignJob.model_validate(
    {
        "trainer": "mine",
        "log": {"format": "lingua"},
        "fingerprint": "0123456789abcdef",
        "params": 1000,
        "tokens_per_step": 100,
        "steps": 40,
        "gpus": 2,
        "device": "cpu",
    }
)

TORCHRUN = "E1127 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1)"

FAILED = "mine failed with code 1 at step 10 of 40. Its last lines:\n"


@pytest.mark.parametrize(
    ("code", "last_step", "asked", "lines", "expected"),
    [
        (1, 10, None, ["a", "b"], ("error", True, FAILED + "a\nb")),
        (1, 10, None, ["a", TORCHRUN, "rank 0"], ("error", True, FAILED + "a")),
        (1, 10, None, [str(n) for n in range(40)],
         ("error", True, FAILED + "\n".join(str(n) for n in range(25, 40)))),
        (1, 10, None, ["CUDA out of memory"],
         ("gpu_out_of_memory", False, FAILED + "CUDA out of memory")),
        (1, 10, None, ["a", TORCHRUN, "CUDA out of memory"], ("error", True, FAILED + "a")),
        (-9, 0, None, [],
         ("error", True, "mine failed with signal SIGKILL at step 0 of 40. Its last lines:\n")),
        (0, 10, None, ["a"], ("error", True, "mine ended with code 0 at step 10 of 40")),
        (0, 0, None, ["a"],
         ("error", False, "mine ended with code 0, but no step was found in its output; expected "
          "lines that `log` in trainers.yaml describes (format lingua)")),
        (1, 10, signal.SIGTERM, ["CUDA out of memory"],
         ("error", True, "mine was stopped by SIGTERM at step 10 of 40. It does not resume: a "
          "retry starts afresh.")),
    ],
)  # fmt: skip
def test_a_failure_says_why_and_whether_a_retry_helps(
    code: int, last_step: int, asked: int | None, lines: list[str], expected: tuple[str, bool, str]
) -> None:
    assert LAST_LINES == 15
    failure = failure_of(JOB, code, last_step, asked, lines)
    assert (failure.kind, failure.retry, failure.message) == expected


def test_a_log_without_steps_is_named() -> None:
    job = JOB.model_copy(update={"log": JOB.log.model_copy(update={"file": "/a/metrics.jsonl"})})
    assert "no step was found in /a/metrics.jsonl; " in failure_of(job, 0, 0, None, []).message


def test_a_failure_that_cannot_be_written_does_not_end_the_job(tmp_path: Path) -> None:
    failure = Failure(retry=True, message="a")
    write_failure(tmp_path / "missing", failure)
    write_failure(tmp_path, failure)
    assert read_failure(tmp_path) == failure
