"""The records of another trainer's run, from what its log tells and when: worked by hand.

The clock stands still between what the log tells, unlike that of a run (test_foreign_run.py).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from study.jobs.foreign_folder import ForeignFolder
from study.jobs.foreign_job import ForeignJob
from study.jobs.gpu_watch import GpuWatch
from study.measure.entries import Entry, Event, Validation
from trainer.folder.run_file import find_summary
from trainer.records import RunSummary

JOB = {
    "trainer": "mine",
    "log": {"format": "regex", "patterns": [r"it (?P<step>\d+)"]},
    "fingerprint": "0123456789abcdef",
    "params": 1000,
    "tokens_per_step": 100,
    "steps": 40,
    "gpus": 4,
    "device": "cuda",
}


class Attempt:
    """An attempt whose log is told at times that the test chooses."""

    def __init__(self, folder: Path, gpu_gib: float | None = None, **changes: Any) -> None:
        self.folder, self.now_s = folder, 0.0
        earlier = find_summary(folder)
        gpus = SimpleNamespace(name="NVIDIA H200", conditions=None, peak_memory_gib=gpu_gib)
        self.files = ForeignFolder(
            folder,
            ForeignJob.model_validate(JOB | changes),
            earlier.attempts if earlier else (),
            cast(GpuWatch, gpus),
            lambda: self.now_s,
        )

    def note(self, now_s: float, *events: Event) -> None:
        self.now_s = now_s
        self.files.note(events)

    def end(self) -> RunSummary:
        self.files.end("completed", "trained")
        return self.summary

    @property
    def summary(self) -> RunSummary:
        found = find_summary(self.folder)
        assert found is not None
        return found

    def column(self, name: str) -> list[Any]:
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)[name] for line in lines]


Begin = Callable[..., Attempt]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Return a function that begins an attempt; keys replace those of `JOB`."""
    begun = []

    def run(folder: Path = tmp_path, gpu_gib: float | None = None, **changes: Any) -> Attempt:
        begun.append(Attempt(folder, gpu_gib, **changes))
        return begun[-1]

    yield run
    for attempt in begun:
        attempt.files.end("failed")


def entries(step_s: Sequence[float], **changes: Any) -> list[Entry]:
    """Return an entry every ten steps."""
    return [Entry(step=10 * n, step_s=value, **changes) for n, value in enumerate(step_s, 1)]


def test_without_times_in_the_log_those_of_its_lines_count(begin: Begin) -> None:
    """Two lines that come at once share the time."""
    attempt = begin()
    attempt.note(5.0, Entry(step=10))
    attempt.note(8.0, Entry(step=20))
    attempt.note(12.0, Entry(step=30), Entry(step=40))
    assert attempt.column("time/elapsed_s") == [5.0, 8.0, 10.0, 12.0]
    assert attempt.column("time/step_s") == pytest.approx([0.5, 0.3, 0.2, 0.2])
    assert attempt.column("time/paused") == [False] * 4
    assert attempt.column("speed/wps")[:2] == pytest.approx([100 / 0.5 / 4, 100 / 0.3 / 4])


def test_lines_of_an_earlier_attempt_that_the_log_has_again_are_no_contradiction(
    begin: Begin,
) -> None:
    """Steps of 10 s, which have come at once in a log that was copied."""
    first = begin()
    first.note(200.0, Entry(step=10, step_s=10.0))
    first.note(300.0, Entry(step=20, step_s=10.0))
    first.files.end("failed")
    again = begin(resumes=True)
    again.note(5.0, *entries([10.0, 10.0]))
    assert again.files.doubts.problem is None
    again.note(110.0, Entry(step=30, step_s=10.0))
    assert again.files.doubts.problem is None
    again.note(111.0, Entry(step=60, step_s=10.0))
    assert "have taken 400 s, 111 s after the start" in str(again.files.doubts.problem)


def test_a_line_that_came_after_no_time_has_no_speed(begin: Begin) -> None:
    attempt = begin()
    attempt.note(5.0, Entry(step=10))
    attempt.note(8.0, Entry(step=20))
    attempt.note(8.0, Entry(step=30))
    assert attempt.column("time/step_s") == pytest.approx([0.5, 0.3, 0.0])
    assert attempt.column("time/paused") == [False, False, True]
    assert attempt.column("speed/wps")[2] is None


def test_lines_that_come_at_once_are_apart_by_the_times_of_the_log(
    begin: Begin, tmp_path: Path
) -> None:
    """By its clock, or else by its steps; never before what has been seen."""
    clock = begin()
    clock.note(10.0, Entry(step=10, elapsed_s=4.0), Entry(step=20, elapsed_s=7.0))
    assert clock.column("time/elapsed_s") == [7.0, 10.0]
    assert clock.column("time/step_s") == pytest.approx([0.7, 0.3])
    # After a resume within an attempt the clock starts again: the lines are 2 s apart.
    clock.note(12.0, Entry(step=30, elapsed_s=1.0))
    assert clock.column("time/step_s")[-1] == pytest.approx(0.2)
    steps = tmp_path / "steps"
    steps.mkdir()
    speeds = begin(steps)
    speeds.note(20.0, *entries([0.5, 0.25, 0.125]))
    assert speeds.column("time/elapsed_s") == [16.25, 18.75, 20.0]
    speeds.note(20.5, Entry(step=40, step_s=1.0), Entry(step=50, step_s=1.0))
    assert speeds.column("time/elapsed_s")[3:] == [20.0, 20.5]


@pytest.mark.parametrize(
    ("first_s", "step_s", "total_s"),
    [
        pytest.param(5.0, [9.0, 0.2, 0.2, 0.5], 5.0 - 9 * 0.2, id="of 10 steps"),
        pytest.param(1.5, [9.0, 0.2, 0.2, 0.5], None, id="shorter than its steps"),
    ],
)
def test_the_start_up_is_what_later_steps_leave_of_the_first_interval(
    begin: Begin, first_s: float, step_s: list[float], total_s: float | None
) -> None:
    attempt = begin()
    first, *others = entries(step_s)
    attempt.note(first_s, first)
    assert attempt.summary.attempts[0].startup_s is None
    attempt.note(first_s + 2.0, others[0])
    known = attempt.summary.attempts[0].startup_s
    assert known == (total_s if total_s is None else pytest.approx(total_s))
    attempt.note(first_s + 9.0, *others[1:])
    assert attempt.end().attempts[0].startup["first_record_s"] == first_s
    assert attempt.summary.attempts[0].startup_s == known


def test_a_first_interval_of_one_step_is_the_start_up(begin: Begin) -> None:
    attempt = begin()
    attempt.note(5.0, Entry(step=1, step_s=0.1))
    assert attempt.summary.attempts[0].startup_s == 5.0


def test_a_pause_says_nothing_of_the_steps_of_the_first_interval(begin: Begin) -> None:
    attempt = begin()
    attempt.note(5.0, Entry(step=10, step_s=0.2))
    attempt.note(9.0, Entry(step=20, step_s=0.4, paused=True))
    assert attempt.end().attempts[0].startup_s is None


@pytest.mark.parametrize(
    ("log", "timed", "paused"),
    [
        (JOB["log"], "step_s", [False, False, True, False]),
        (JOB["log"], "elapsed_s", [False, False, True, False]),
        # It marks its saves, but by its clock alone their time would be in that of the steps.
        ({"format": "torchtitan"}, "step_s", [False, False, False, False]),
        ({"format": "torchtitan"}, "elapsed_s", [False, False, True, False]),
        ({"format": "torchtitan"}, None, [False, False, True, False]),
    ],
)
def test_saves_every_20_steps_are_in_the_interval_after_step_20(
    begin: Begin, log: dict[str, Any], timed: str | None, paused: list[bool]
) -> None:
    attempt = begin(log=log, saves_every=20)
    for number in range(1, 5):
        times = {} if timed is None else {timed: 1.0 if timed == "step_s" else 10.0 * number}
        attempt.note(10.0 * number, Entry(step=10 * number, **times))
    assert attempt.column("time/paused") == paused


def test_a_save_inside_an_interval_is_in_it(begin: Begin) -> None:
    """Every 15 steps: at 15, and at 30, which is the interval after that up to it."""
    attempt = begin(saves_every=15)
    attempt.note(9.0, *entries([1.0] * 4))
    assert attempt.column("time/paused") == [False, True, False, True]


def test_tokens_are_those_of_the_log_if_it_has_them(begin: Begin) -> None:
    attempt = begin()
    attempt.note(9.0, Entry(step=10, step_s=0.5, tokens=990), Entry(step=20, step_s=0.5))
    assert attempt.column("optim/total_tokens") == [990, 2000]
    assert attempt.column("speed/tokens_per_s") == [200.0, 200.0]
    assert attempt.column("speed/wps") == [50.0, 50.0]


@pytest.mark.parametrize(
    ("logged", "sampled", "device", "expected"),
    [
        ([2.0, 3.0, 2.5], 7.5, "cuda", 3.0),
        ([None, None, None], 7.5, "cuda", 7.5),
        ([None, None, None], None, "cuda", None),
    ],
)
def test_the_peak_of_the_memory(
    begin: Begin, logged: list[float | None], sampled: float | None, device: str,
    expected: float | None,
) -> None:  # fmt: skip
    """That of the log if it has one, otherwise as sampled."""
    attempt = begin(gpu_gib=sampled, device=device)
    for number, memory_gib in enumerate(logged, 1):
        attempt.note(number, Entry(step=10 * number, step_s=0.1, memory_gib=memory_gib))
    assert attempt.summary.peak_memory_gib == expected
    assert attempt.end().peak_memory_gib == expected


def test_on_a_cpu_the_peak_is_that_of_the_largest_process(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Linux tells it, in KiB."""
    usage = SimpleNamespace(ru_maxrss=3 * 2**20)
    monkeypatch.setattr("study.jobs.foreign_folder.resource.getrusage", lambda who: usage)
    assert begin(device="cpu").end().peak_memory_gib == 3.0


def test_the_machine_is_named_by_its_device(begin: Begin) -> None:
    assert begin().summary.gpu_name == "NVIDIA H200"
    assert begin(device="cpu").summary.gpu_name != "NVIDIA H200"


def test_records_of_an_attempt_go_on_where_it_does(begin: Begin, tmp_path: Path) -> None:
    """The second one resumes from step 20, 8 s after the start of the run, and repeats step 30."""
    first = begin()
    first.note(4.0, Entry(step=10, step_s=0.3, loss=3.0))
    first.note(8.0, Entry(step=20, step_s=0.3, loss=2.0), Validation(step=20, loss=2.5))
    first.note(11.0, Entry(step=30, step_s=0.3, loss=1.5))
    first.files.end("failed")
    second = begin()
    summary = second.summary
    assert (summary.steps_done, summary.loss_final, summary.loss_validation) == (30, 1.5, 2.5)
    assert second.files.last_step == 0
    second.note(6.0, Entry(step=30, step_s=0.3, loss=1.75), Validation(step=30, loss=2.25))
    second.note(9.0, Entry(step=40, step_s=0.3, loss=1.25))
    assert second.files.last_step == 40
    assert second.column("global_step") == [10, 20, 30, 40]
    assert second.column("time/elapsed_s") == [4.0, 8.0, 8.0 + 6.0, 8.0 + 9.0]
    assert second.column("attempt") == [1, 1, 2, 2]
    summary = second.end()
    assert [item.first_step for item in summary.attempts] == [1, 21]
    assert (summary.loss_final, summary.loss_validation, summary.steps_done) == (1.25, 2.25, 40)
    lines = (tmp_path / "metrics.eval.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [(line["global_step"], line["time/elapsed_s"]) for line in found] == [
        (20, 8.0), (30, 8.0 + 6.0)
    ]  # fmt: skip


def test_a_step_and_a_validation_are_recorded_once(begin: Begin, tmp_path: Path) -> None:
    """Another rank may print them too; the validation of the model before training is none."""
    attempt = begin()
    attempt.note(1.0, Validation(step=0, loss=9.0), Entry(step=0, step_s=0.1))
    for now_s, loss in ((5.0, 3.0), (5.5, 4.0)):
        attempt.note(now_s, Entry(step=10, step_s=0.1), Validation(step=10, loss=loss))
    assert attempt.column("global_step") == [10]
    assert attempt.summary.loss_validation == 3.0
    assert len((tmp_path / "metrics.eval.jsonl").read_text().splitlines()) == 1


def test_a_validation_may_be_the_first_that_an_attempt_tells(begin: Begin) -> None:
    """It was resumed from step 20, whose records stay; of step 0, it says nothing of this run."""
    first = begin()
    first.note(8.0, *entries([0.3, 0.3, 0.3]))
    first.files.end("failed")
    second = begin()
    second.note(1.0, Validation(step=0, loss=9.0))
    second.note(2.0, Validation(step=20, loss=2.5))
    assert second.column("global_step") == [10, 20]
    second.note(5.0, Entry(step=30, step_s=0.3))
    assert [item.first_step for item in second.end().attempts] == [1, 21]


@pytest.mark.parametrize(
    ("steps", "done"),
    [
        pytest.param(40, True, id="the last step"),
        pytest.param(49, True, id="the next record would be beyond it"),
        pytest.param(50, True, id="also for a trainer that counts from 0 to 49"),
        pytest.param(51, False, id="a record is missing"),
    ],
)
def test_a_log_every_ten_steps_may_end_before_the_last(
    begin: Begin, steps: int, done: bool
) -> None:
    attempt = begin(steps=steps)
    assert not attempt.files.all_steps_done
    attempt.note(9.0, *entries([1.0] * 4))
    assert attempt.files.all_steps_done == done


def test_a_run_diverged_if_its_last_loss_is_not_finite(begin: Begin) -> None:
    attempt = begin()
    attempt.note(1.0, Entry(step=10, loss=float("nan")))
    assert attempt.files.diverged
    attempt.note(2.0, Entry(step=20, loss=5.0))
    assert not attempt.files.diverged
    attempt.note(3.0, Entry(step=30))
    assert not attempt.files.diverged
