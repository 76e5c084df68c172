"""What a run's own files say of it while it goes on, and at its end."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import make_record, read_records
from tests.trainer.small_runs import make_summary, run_config
from trainer.config import RunConfig
from trainer.folder.journal import Journal, reserved_gib
from trainer.records import Evaluation, GpuConditions
from trainer.startup import Startup

CONDITIONS = GpuConditions(
    clock_mhz=1800, clock_mhz_min=1620, clock_mhz_max=1980, power_limit_w=700
)
SPEEDS: dict[str, Any] = {"rate": 1e-3, "grad_norm": 1.0, "tokens_per_s": 8.0}


def open_journal(folder: Path, step: int = 0) -> Journal:
    journal = Journal(run_config(folder), folder, step, Startup())
    journal.open(make_summary(), ())
    return journal


def account(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def test_run_json_tells_of_the_last_record(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.record(make_record(1, **SPEEDS))
    last = make_record(3, loss=2.5, reserved_gib=3.5, **SPEEDS)
    journal.record(last, machine_load=1.25, gpu_conditions=CONDITIONS)
    journal.evaluated(Evaluation(step=3, loss=2.75))
    journal.end("completed", {"steps_s": 0.5, "eval_s": 0.25}, outcome="trained")
    journal.end("failed")  # as when closing the files fails: too late
    journal.close()
    facts = account(tmp_path)
    expected = {
        "status": "completed",
        "outcome": "trained",
        "steps_done": 3,
        "loss_final": 2.5,
        "loss_validation": 2.75,
        "peak_memory_gib": 3.5,
        "machine_load": 1.25,
        "gpu_conditions": CONDITIONS.to_dict() | {"limits": []},
    }
    assert {key: facts[key] for key in expected} == expected
    (attempt,) = facts["attempts"]
    assert attempt["unrecorded"] == {"steps_s": 0.5, "eval_s": 0.25}
    assert [record["global_step"] for record in read_records(tmp_path)] == [1, 3]
    (evaluation,) = read_records(tmp_path, "metrics.eval.jsonl")
    assert evaluation["eval/loss"] == 2.75


def test_a_resumed_run_keeps_what_is_before_its_checkpoint(tmp_path: Path) -> None:
    """From step 2, without the run.json of its four attempts, which was lost."""
    first = open_journal(tmp_path)
    for step, loss in ((1, 4.0), (2, 3.0), (3, 2.0)):
        first.record(make_record(step, loss=loss, attempt=4, **SPEEDS))
        first.evaluated(Evaluation(step=step, loss=loss + 0.25))
    first.close()
    resumed = open_journal(tmp_path, step=2)
    assert resumed.attempt == 5
    for name in ("metrics.jsonl", "metrics.eval.jsonl"):
        assert [record["global_step"] for record in read_records(tmp_path, name)] == [1, 2]
    facts = account(tmp_path)
    assert (facts["loss_final"], facts["loss_validation"]) == (3.0, 3.25)
    assert [attempt["attempt"] for attempt in facts["attempts"]] == [5]
    assert (tmp_path / "run.yaml").read_text() == run_config(tmp_path).to_yaml()
    resumed.close()


@pytest.mark.parametrize("moved", [True, False])
def test_nothing_is_written_beside_the_records_of_a_folder_that_is_gone(
    tmp_path: Path, moved: bool
) -> None:
    """What is appended to a deleted file is lost, and run.json alone would be a complete run."""
    folder = tmp_path / "run"
    folder.mkdir()
    journal = open_journal(folder)
    journal.record(make_record(1, **SPEEDS))
    folder.rename(tmp_path / "elsewhere")
    if not moved:
        shutil.rmtree(tmp_path / "elsewhere")
    folder.mkdir()  # by a checkpoint
    with pytest.raises(FileNotFoundError, match=r"deleted or moved .*/run/metrics\.jsonl"):
        journal.record(make_record(2, **SPEEDS))
    with pytest.raises(FileNotFoundError, match=r"deleted or moved .*/run/metrics\.eval\.jsonl"):
        journal.evaluated(Evaluation(step=2, loss=2.75))
    with pytest.raises(FileNotFoundError, match=r"deleted or moved .*/run/run\.json"):
        journal.end("completed")
    journal.close()
    assert not list(folder.iterdir())
    if moved:
        assert [each["global_step"] for each in read_records(tmp_path / "elsewhere")] == [1]


def test_the_time_of_the_start_is_noted_with_the_first_step(tmp_path: Path) -> None:
    startup = Startup()
    journal = Journal(run_config(tmp_path), tmp_path, 0, startup)
    journal.open(make_summary(), ())
    startup.mark("first_step")
    startup.finish()
    journal.started()
    (attempt,) = account(tmp_path)["attempts"]
    assert attempt["startup"] == startup.split
    assert attempt["wall_s"] == pytest.approx(startup.split["total_s"], abs=1)
    journal.close()


class Noted:
    """Trackers that note what they get."""

    def __init__(self, config: RunConfig, step: int, began: str) -> None:
        self.step, self.began = step, began
        self.records: list[dict[str, Any]] = []
        self.is_closed = False

    def write(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.is_closed = True


def test_trackers_get_all_records_from_the_checkpoint_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Noted] = []
    monkeypatch.setattr(
        "trainer.folder.journal.Trackers", lambda *given: made.append(Noted(*given)) or made[0]
    )
    journal = open_journal(tmp_path, step=2)
    journal.record(make_record(3, loss=2.0, **SPEEDS))
    journal.evaluated(Evaluation(step=3, loss=2.25))
    journal.close()
    (trackers,) = made
    assert (trackers.step, trackers.began) == (2, make_summary().attempts[0].start)
    record, evaluation = trackers.records
    assert (record["global_step"], record["loss/out"]) == (3, 2.0)
    assert (evaluation["global_step"], evaluation["eval/loss"]) == (3, 2.25)
    assert trackers.is_closed


def test_the_peak_memory_on_a_cpu_is_that_of_the_process(tmp_path: Path) -> None:
    """As Linux counts it, in KiB."""
    journal = open_journal(tmp_path)
    journal.record(make_record(1, **SPEEDS))
    journal.end("completed")
    journal.close()
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    assert account(tmp_path)["peak_memory_gib"] == pytest.approx(peak / 2**20, rel=0.02)


def test_the_peak_memory_of_a_gpu_is_what_its_allocator_reserved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = torch.device("cuda", 1)
    reserved = {gpu: 3 * 2**29}
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", reserved.__getitem__)
    assert reserved_gib(gpu) == 1.5
    assert reserved_gib(torch.device("cpu")) is None


def test_the_terminal_shows_the_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three steps of 21.7 s are left. A loss may be zero; None is one that is not finite."""
    journal = open_journal(tmp_path)
    speeds = {"rate": 1e-3, "tokens_per_s": 12345.6, "step_s": 21.7}
    journal.record(make_record(7, loss=0.0, grad_norm=0.0, **speeds))
    journal.record(make_record(10, loss=None, grad_norm=None, **speeds))
    journal.evaluated(Evaluation(step=10, loss=0.0))
    journal.evaluated(Evaluation(step=10, loss=None))
    journal.close()
    assert capsys.readouterr().out.splitlines() == [
        "step      7/10  loss 0.0000  lr 1.00e-03  grad norm 0.00  12,346 tokens/s  left 1:05",
        "step     10/10  loss nan  lr 1.00e-03  grad norm nan  12,346 tokens/s  left 0:00",
        "step     10/10  validation loss 0.0000",
        "step     10/10  validation loss nan",
    ]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    journal = Journal(run_config(tmp_path), tmp_path, 0, Startup())
    assert journal.attempt == 1
    journal.started()
    journal.record(make_record(1, **SPEEDS))
    journal.evaluated(Evaluation(step=1, loss=1.0))
    journal.end("completed")
    journal.close()
    assert not list(tmp_path.iterdir())
