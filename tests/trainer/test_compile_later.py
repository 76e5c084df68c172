"""Compiling while the run trains: the switch, on one process and on two, and where it fails."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import Runs, losses, read_records
from trainer import host
from trainer.compile_later import PAYS_S, CompileLater
from trainer.config import load_run_config
from trainer.parallel import get_world
from trainer.run_folder import read_facts

ENDLESS = ("eval=null", "checkpoint=null", "logging={freq: 50}", "steps=1000000")


def train_until(runs: Runs, folder: Path, words: str, *settings: str, **options: Any) -> list[str]:
    """Train until a line with these words is printed and ten more; return all lines.

    How long another process compiles depends on what else the machine does.
    """
    started = (f"dump_dir={folder}", "distributed.compile=later", *ENDLESS, *settings)
    process = runs.start(*started, **options)
    lines, left = [], None
    deadline = time.monotonic() + 240
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
            if left is None and words in line:
                left = 10
            elif left is not None:
                left -= 1
                if left == 0:
                    os.killpg(process.pid, signal.SIGTERM)
    assert process.returncode != 0
    return lines


def test_the_run_goes_on_with_what_another_process_has_compiled(runs: Runs) -> None:
    cache = f"distributed.compile_cache={runs.folder / 'compiled'}"
    for processes in (1, 2):
        folder = runs.out(str(processes))
        lines = train_until(runs, folder, "compiled, after", cache, processes=processes)
        assert sum("compiled, after a standstill of" in line for line in lines) == 1, lines
        facts = read_facts(folder) or {}
        (attempt,) = facts["attempts"]
        assert facts["compiled"]
        assert "compile_s" not in attempt["startup"]  # the first step waited for nothing
        # The step before the switch closes an interval, and no step stands there twice.
        steps = [record["global_step"] for record in read_records(folder)]
        assert attempt["compiled_from"] - 1 in steps
        assert steps == sorted(set(steps))
        assert steps[-1] > attempt["compiled_from"]
        # It goes on from where it was: a model with other weights would begin at 5 or 6 again.
        curve = [loss for step, loss in losses(folder) if step >= 500]
        assert max(curve) < 4


def test_a_run_trains_on_where_compiling_fails(runs: Runs) -> None:
    cache = f"distributed.compile_cache={runs.folder / 'compiled'}"
    lines = train_until(runs, runs.out(), "uncompiled", cache, CXX="/bin/false")
    assert sum("warning: training goes on uncompiled, see " in line for line in lines) == 1
    assert not (read_facts(runs.out()) or {})["compiled"]
    assert "Traceback" in (runs.out() / "compile.log").read_text()


def test_a_short_run_is_left_alone(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "count_cores", lambda: 2)
    config = load_run_config([f"config={runs.config}"])
    later = CompileLater(config, get_world(), runs.folder)
    later.consider(PAYS_S - 1)
    assert not later.is_ready()
    assert not (runs.folder / "compile.log").exists()
    later.consider(PAYS_S)
    assert (runs.folder / "compile.log").exists()
    later.close()
    assert not later.is_ready()


def test_training_leaves_a_core_to_the_compiler(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it cannot, a run that was not asked to compile does not."""
    config, before = load_run_config([f"config={runs.config}"]), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        later = CompileLater(config, get_world(), runs.folder)
        later.consider(PAYS_S)
        assert torch.get_num_threads() == 1
        later.close()
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        monkeypatch.setattr(host, "count_cores", lambda: 1)
        alone = CompileLater(config, get_world(), runs.folder / "alone")
        alone.consider(PAYS_S)  # would fail for want of the folder
        assert not alone.is_ready()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layout", ["fsdp_type=full_shard", "tp_size=2", "cuda_graphs=true"])
def test_not_where_the_model_cannot_be_compiled_afterwards(runs: Runs, layout: str) -> None:
    settings = ("distributed.compile=later", f"distributed.{layout}", "data={seq_len: 64}")
    done = runs.run(*settings, check=False, processes=2 if layout == "tp_size=2" else 1)
    assert done.returncode == 1
    assert "distributed.compile = later: not offered with" in done.stdout + done.stderr
