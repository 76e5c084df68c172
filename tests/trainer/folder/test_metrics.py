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
    timer = RecordTimer()
    for _ in range(2):
        with timer.spending("data"):
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
        "data_s": 0.5,
        "checkpoint_s": 8.0,
        "eval_s": 16.0,
    }
    now[0] += 2.0
    timer.steps += 1
    assert timer.read()["step_s"] == 2.0  # the next interval begins where this one ended


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
