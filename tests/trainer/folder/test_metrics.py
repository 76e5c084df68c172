import json
import math
import time
from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import make_record
from trainer.folder.metrics import LossMean, RecordTimer
from trainer.folder.record_file import RecordFile
from trainer.records import finite


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["global_step"] for line in path.read_text().splitlines()]


def test_resuming_drops_the_records_of_repeated_steps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = RecordFile(path, 0)
    for step in (1, 10, 20, 30):
        first.write(make_record(step))
    first.close()
    path.write_text(path.read_text() + '{"global_step": 4')  # cut off by a kill
    second = RecordFile(path, 20)
    second.write(make_record(30))
    second.close()
    assert steps_in(path) == [1, 10, 20, 30]


def test_a_new_run_begins_with_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"global_step": 7}\n')
    RecordFile(path, 0).close()
    assert path.read_text() == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_null(tmp_path: Path, value: float) -> None:
    path = tmp_path / "metrics.jsonl"
    file = RecordFile(path, 0)
    file.write(make_record(1, loss=finite(value)))
    file.close()
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["loss/out"] is None


def test_step_time_excludes_checkpoint_and_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timer = RecordTimer(torch.device("cpu"))
    for _ in range(2):
        with timer.waiting_for_data():
            now[0] += 0.25
        now[0] += 1.0
        timer.steps += 1
    with timer.spending("checkpoint"):
        now[0] += 8.0
    with timer.spending("eval"):
        now[0] += 16.0
    assert timer.read() == {
        "step_s": 1.25,
        "interval_steps": 2,
        "paused": None,
        "data_s": 0.5,
        "checkpoint_s": 8.0,
        "eval_s": 16.0,
    }
    now[0] += 2.0
    timer.steps += 1
    assert timer.read()["step_s"] == 2.0  # the next interval begins where this one ended


class Gpu:
    """A device that does queued work one after the other, while the host goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        """The host's clock, s."""
        self.done_at = 0.0
        """When the device has done what is queued."""
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Mark(self))

    def run(self, seconds: float) -> None:
        """Queue work."""
        self.done_at = max(self.done_at, self.now) + seconds

    def synchronize(self) -> None:
        self.now = max(self.now, self.done_at)


class Mark:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def record(self) -> None:
        self.at = max(self.gpu.now, self.gpu.done_at)

    def elapsed_time(self, later: "Mark") -> float:
        """Milliseconds, as CUDA's."""
        return 1e3 * (later.at - self.at)


@pytest.mark.parametrize("every", [1, 3, 5])
def test_queued_steps_are_not_charged_to_an_evaluation(
    monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    gpu = Gpu(monkeypatch)
    timer = RecordTimer(torch.device("cuda"))
    for step in range(1, 11):
        gpu.run(0.05)
        timer.steps += 1
        if step % every == 0:
            with timer.spending("eval"):
                gpu.run(0.2)
                gpu.synchronize()
    gpu.synchronize()
    times = timer.read()
    assert times["step_s"] == pytest.approx(0.05)
    assert times["eval_s"] == pytest.approx(0.2 * (10 // every))


@pytest.mark.parametrize(
    ("loader_s", "waits_s"),
    [
        (0.03, 0.03),  # before the first step only: the GPU is busy for longer than the loader
        (0.08, 0.08 + 9 * 0.03),
        (5e-5, 0.0),
    ],
)
def test_waiting_for_data_counts_while_the_gpu_is_idle(
    monkeypatch: pytest.MonkeyPatch, loader_s: float, waits_s: float
) -> None:
    gpu = Gpu(monkeypatch)
    timer = RecordTimer(torch.device("cuda"))
    for _ in range(10):
        with timer.waiting_for_data():
            gpu.now += loader_s
        gpu.run(0.05)
        timer.steps += 1
    gpu.synchronize()
    times = timer.read()
    assert times["data_s"] == pytest.approx(waits_s)
    assert times["step_s"] == pytest.approx((waits_s + (0 if waits_s else loader_s)) / 10 + 0.05)


def test_the_logged_loss_is_the_mean_since_the_last_record() -> None:
    losses = LossMean(torch.device("cpu"))
    for value in (3.0, 1.0, 2.0, 4.0):
        losses.add(torch.tensor(value))
    assert losses.mean().item() == 2.5
    losses.restart()
    losses.add(torch.tensor(7.0))
    assert losses.mean().item() == 7.0


def test_a_checkpoint_between_two_records_keeps_the_losses_before_it() -> None:
    losses = LossMean(torch.device("cpu"), total=5.0, steps=2)
    losses.add(torch.tensor(1.0))
    assert losses.mean().item() == 2.0
