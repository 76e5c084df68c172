"""What a run's own files say of it while it goes on, and at its end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import make_record, read_records
from tests.trainer.small_runs import make_summary, run_config
from trainer.folder.journal import Journal, reserved_gib
from trainer.records import Evaluation, GpuConditions
from trainer.startup import Startup

CONDITIONS = GpuConditions(
    clock_mhz=1800, clock_mhz_min=1620, clock_mhz_max=1980, power_limit_w=700
)
SPEEDS: dict[str, Any] = {"rate": 1e-3, "grad_norm": 1.0, "tokens_per_s": 8.0}


def open_journal(folder: Path) -> Journal:
    journal = Journal(run_config(folder), folder, 0, Startup())
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
