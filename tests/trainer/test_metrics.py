import json
import math
import time
from pathlib import Path

import pytest

from trainer.metrics import Interval, RecordFile, Startup


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["global_step"] for line in path.read_text().splitlines()]


def test_resuming_drops_the_records_of_steps_done_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = RecordFile(path, 0)
    for step in (1, 10, 20, 30):
        first.write({"global_step": step})
    first.close()
    path.write_text(path.read_text() + '{"global_step": 4')  # torn by a kill
    second = RecordFile(path, 20)
    second.write({"global_step": 30})
    second.close()
    assert steps_in(path) == [1, 10, 20, 30]


def test_a_run_from_the_start_begins_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"global_step": 7}\n')
    RecordFile(path, 0).close()
    assert path.read_text() == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_know_are_null(tmp_path: Path, value: float) -> None:
    path = tmp_path / "metrics.jsonl"
    file = RecordFile(path, 0)
    file.write({"global_step": 1, "loss/out": value})
    file.close()
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["loss/out"] is None


def test_checkpoint_and_evaluation_are_no_part_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    interval = Interval()
    for _ in range(2):
        with interval.spending("data"):
            now[0] += 0.25
        now[0] += 1.0
        interval.count_step()
    with interval.spending("checkpoint"):
        now[0] += 8.0
    with interval.spending("eval"):
        now[0] += 16.0
    assert interval.read() == {
        "time/step_s": 1.25,
        "time/interval_steps": 2,
        "time/data_s": 0.5,
        "time/checkpoint_s": 8.0,
        "time/eval_s": 16.0,
    }
    now[0] += 2.0
    interval.count_step()
    assert interval.read()["time/step_s"] == 2.0  # the next interval begins where this one ended


def test_startup_counts_from_the_start_of_the_process() -> None:
    before = time.perf_counter()
    startup = Startup()
    startup.mark("imports")
    startup.mark("data")
    startup.finish()
    # This process began before the test did; its parts add up to the whole.
    assert startup.split["total_s"] is not None
    assert startup.split["total_s"] > time.perf_counter() - before
    parts = sum(v for k, v in startup.split.items() if k != "total_s" and v is not None)
    assert parts == pytest.approx(startup.split["total_s"], abs=0.05)
