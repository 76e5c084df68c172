"""Times of another trainer's steps, from the moments at which the lines of its log come."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from study.jobs.foreign_folder import ForeignFolder
from study.jobs.foreign_job import ForeignJob
from study.jobs.gpu_watch import GpuWatch
from study.jobs.log_follower import Line, LineBuffer
from study.measure.entries import LineReader, Shape
from study.measure.foreign_logs import live_reader
from study.measure.run_files import Run, read_run
from study.measure.throughput import is_steady
from study.trainers import LogConfig

STEPS: dict[str, Any] = {"format": "regex", "patterns": [r"step (?P<step>\d+) loss (?P<loss>\S+)"]}
VALIDATION = r"validation of (?P<step>\d+): (?P<validation_loss>\S+)"
TITAN = {"format": "torchtitan"}


class Log:
    """A run of 40 steps of 100 tokens, whose log comes as a test says."""

    def __init__(self, folder: Path, log: dict[str, Any], **job: Any) -> None:
        described = {
            "trainer": "mine", "fingerprint": "f", "params": 1, "tokens_per_step": 100,
            "steps": 40, "gpus": 1, "device": "cpu", **job, "log": LogConfig.model_validate(log),
        }  # fmt: skip
        self._folder, self._now = folder, 0.0
        made = ForeignJob.model_validate(described)
        self.files = ForeignFolder(folder, made, (), GpuWatch("cpu", 1), lambda: self._now)
        reader = live_reader(made.log, Shape(made.tokens_per_step, made.gpus))
        assert isinstance(reader, LineReader)
        self._reader, self._lines = reader, LineBuffer(lambda: self._now)

    def write(self, now: float, text: str) -> None:
        """Let some of the log come at a moment, s since the start."""
        self._now = now
        self._note(self._lines.feed(text.encode()))

    def _note(self, lines: Sequence[Line]) -> None:
        for _, group in groupby(lines, key=lambda line: line.came_s):
            self.files.note([event for line in group for event in self._reader.feed(*line)])

    def end(self, now: float) -> Run:
        """End the run; return what its folder says of it."""
        self._now = now
        self._note(self._lines.close())
        self.files.note(list(self._reader.close()))
        self.files.end("completed", "trained")
        run = read_run(self._folder)
        assert run is not None
        return run


def steps(*numbers: int) -> str:
    return "".join(f"step {number} loss 3\n" for number in numbers)


def steady(run: Run) -> tuple[list[int], list[float]]:
    """Return the steps of steady state, and their times, s."""
    kept = is_steady(run)
    return list(run.records.column("step")[kept]), list(run.records.column("step_s")[kept])


def startup_s(run: Run) -> float | None:
    return run.summary.attempts[0].startup["total_s"]


def test_lines_that_come_together_share_their_time(tmp_path: Path) -> None:
    """Steps of 0.05 s after a start of 2 s, first step included; the output is block-buffered: five
    lines of two steps at a time."""
    log = Log(tmp_path, STEPS)
    for first in (0, 10, 20, 30):
        log.write(2 + (first + 9) * 0.05, steps(*range(first + 2, first + 11, 2)))
    run = log.end(4.0)
    assert steady(run) == ([*range(12, 41, 2)], pytest.approx([0.05] * 15))
    assert startup_s(run) == pytest.approx(2.0)


def test_a_line_at_a_time(tmp_path: Path) -> None:
    log = Log(tmp_path, STEPS)
    for step in range(2, 41, 2):
        log.write(2 + (step - 1) * 0.05, steps(step))
    run = log.end(4.0)
    assert steady(run) == ([*range(4, 41, 2)], pytest.approx([0.05] * 19))
    assert startup_s(run) == pytest.approx(2.0)


def test_lines_that_come_with_one_after_a_save_share_its_time(tmp_path: Path) -> None:
    """A checkpoint after step 20, which takes 3 s."""
    log = Log(tmp_path, STEPS, saves_every=20)
    log.write(1.0, steps(10))
    log.write(2.0, steps(20))
    log.write(6.0, steps(25, 30))
    log.write(7.0, steps(35, 40))
    found, times = steady(log.end(7.5))
    assert (found, times) == ([20, 35, 40], pytest.approx([0.1] * 3))


def test_lines_that_come_with_a_validation_share_its_time(tmp_path: Path) -> None:
    """Of 3 s, after step 20."""
    log = Log(tmp_path, {**STEPS, "patterns": [*STEPS["patterns"], VALIDATION]})
    log.write(1.0, steps(5))
    log.write(2.0, steps(10, 15))
    log.write(6.5, steps(20) + "validation of 20: 3.5\n" + steps(25, 30))
    log.write(7.5, steps(35, 40))
    found, times = steady(log.end(8.0))
    assert (found, times) == ([10, 15, 35, 40], pytest.approx([0.1] * 4))


def test_a_progress_bar_is_timed_by_its_own_lines(tmp_path: Path) -> None:
    """A line begins with a carriage return, so it is complete with the next one; the last one with
    the end of the run, after the model was saved for 4 s."""
    log = Log(tmp_path, {"format": "regex", "patterns": [r"(?P<step>\d+)/40 .*loss=(?P<loss>\S+)"]})
    for step in range(1, 41):
        log.write(1 + step * 0.05, f"\r {step}/40 [loss=3]")
    log.write(7.0, "\r 40/40 [loss=3]\n")
    run = log.end(7.0)
    assert steady(run) == ([*range(2, 41)], pytest.approx([0.05] * 39))
    assert startup_s(run) == pytest.approx(1.05)


def test_a_start_in_the_middle_of_a_log_is_no_steady_state(tmp_path: Path) -> None:
    """Steps go back by 4 after a rank has died, and 3 s pass; or the log tells of the start."""
    log = Log(tmp_path, STEPS)
    for step in range(2, 21, 2):
        log.write(1 + step * 0.05, steps(step))
    log.write(5.0, steps(18))
    log.write(5.1, steps(20))
    for step in range(22, 41, 2):
        log.write(4.1 + step * 0.05, steps(step))
    expected = [*range(4, 21, 2), *range(24, 41, 2)]
    assert steady(log.end(7.0)) == (expected, pytest.approx([0.05] * len(expected)))


def test_a_start_that_the_log_names_is_no_steady_state(tmp_path: Path) -> None:
    """At 2,000 tokens/s a step takes 0.05 s."""
    log = Log(tmp_path, TITAN)
    log.write(1.0, "Training starts at step 1\nstep: 1 loss: 3 tps: 50\n")
    log.write(1.5, "step: 10 loss: 3 tps: 2,000\nstep: 20 loss: 3 tps: 2,000\n")
    log.write(4.5, "Training starts at step 21\nstep: 21 loss: 3 tps: 33\n")
    log.write(5.5, "step: 30 loss: 3 tps: 2,000\nstep: 40 loss: 3 tps: 2,000\n")
    assert steady(log.end(6.0)) == ([10, 20, 30, 40], pytest.approx([0.05] * 4))


def test_a_clock_that_goes_back_is_that_of_a_new_start(tmp_path: Path) -> None:
    own = r"step (?P<step>\d+) at (?P<elapsed_s>\S+)"
    log = Log(tmp_path, {"format": "regex", "patterns": [own]})
    for step, now, clock in ((10, 2, 1), (20, 3, 2), (30, 8, 1), (40, 9, 2)):
        log.write(now, f"step {step} at {clock}\n")
    assert steady(log.end(9.5)) == ([20, 40], pytest.approx([0.1, 0.1]))


def test_records_end_at_a_loss_that_stays_not_finite(tmp_path: Path) -> None:
    log = Log(tmp_path, STEPS)
    for step, loss in ((10, "3"), (20, "nan"), (30, "nan"), (40, "inf")):
        log.write(step / 10, f"step {step} loss {loss}\n")
    assert log.files.diverged
    run = log.end(5.0)
    assert list(run.records.column("step")) == [10, 20]
    assert run.summary.steps_done == 20


def test_a_loss_that_is_finite_again_goes_on(tmp_path: Path) -> None:
    """As after a step that a gradient scaler has skipped."""
    log = Log(tmp_path, STEPS)
    for step, loss in ((10, "3"), (20, "nan"), (30, "nan"), (40, "2.5")):
        log.write(step / 10, f"step {step} loss {loss}\n")
    assert not log.files.diverged
    run = log.end(5.0)
    assert list(run.records.column("step")) == [10, 20, 40]
    assert list(run.records.column("interval_steps")) == [10, 10, 20]
    assert steady(run)[1] == pytest.approx([0.1, 0.1])
    assert run.summary.loss_final == 2.5


@pytest.mark.parametrize(
    ("pattern", "line", "problem"),
    [
        # 3.2 k of 100 tokens: 0.031 s a step, and not 31 s.
        (r"(?P<tokens_per_s>[\d.]+)", "3.2", "the steps to 20 have taken 312 s, 2 s after"),
        (r"(?P<tokens>\d+)", "{twice}", "10 steps up to 20 had 2,000 tokens; expected 100 a"),
        (r"(?P<tokens>\d+)", "{once}", None),
        (r"(?P<tokens>\d+)", "{off}", None),  # by a step and a half, as of micro-batches
        (r"(?P<tokens_per_s>[\d.]+)", "3200", None),
    ],
)
def test_a_log_that_contradicts_the_clock_or_the_study(
    tmp_path: Path, pattern: str, line: str, problem: str | None
) -> None:
    log = Log(tmp_path, {"format": "regex", "patterns": [r"step (?P<step>\d+) " + pattern]})
    for step in (10, 20, 30):
        off = 100 * step - 150 * (step == 20)
        tokens = {"once": 100 * step, "twice": 200 * step, "off": off}
        log.write(step / 10, f"step {step} {line.format(**tokens)}\n")
    log.end(4.0)
    found = log.files.doubts.problem
    assert found is None if problem is None else problem in str(found)
