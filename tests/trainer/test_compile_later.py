"""Compiling while the run trains: the switch, on one process and on two, and where it fails."""

import subprocess
import sys

import pytest

from tests.trainer.conftest import Runs, losses, read_records
from trainer.compile_later import PAYS_S, CompileLater
from trainer.config import load_run_config
from trainer.run_folder import read_facts

SHORT = ("eval=null", "checkpoint=null", "logging={freq: 50}")


def test_the_run_goes_on_with_what_another_process_has_compiled(runs: Runs) -> None:
    cache = f"distributed.compile_cache={runs.folder / 'compiled'}"
    warm_up = [sys.executable, "-m", "trainer.warm_up", f"config={runs.config}", cache]
    subprocess.run(warm_up, env=runs.environment(), check=True, capture_output=True)
    later = ("distributed.compile=later", cache, *SHORT)
    for processes, last in ((1, 5000), (2, 3000)):  # steps that take twice as long as compiling
        folder = runs.out(str(processes))
        settings = (f"dump_dir={folder}", f"steps={last}", *later)
        printed = runs.run(*settings, processes=processes).stdout
        assert "compiled, after a standstill" in printed
        facts = read_facts(folder) or {}
        (attempt,) = facts["attempts"]
        assert facts["compiled"]
        assert "compile_s" not in attempt["startup"]  # the first step waited for nothing
        # The step before the switch closes an interval, and no step stands there twice.
        steps = [record["global_step"] for record in read_records(folder)]
        assert attempt["compiled_from"] - 1 in steps
        assert steps == sorted(set(steps))
        assert steps[-1] == last
        # It goes on from where it was: a model with other weights would begin at 5 or 6 again.
        curve = [loss for step, loss in losses(folder) if step >= 1000]
        assert max(curve) - min(curve) < 0.5


def test_a_run_trains_on_where_compiling_fails(runs: Runs) -> None:
    cache = f"distributed.compile_cache={runs.folder / 'compiled'}"
    settings = ("distributed.compile=later", cache, "steps=4000", *SHORT)
    printed = runs.run(*settings, CXX="/bin/false").stdout
    assert printed.count("warning: training goes on uncompiled, see ") == 1
    facts = read_facts(runs.out()) or {}
    assert facts["status"] == "completed"
    assert not facts["compiled"]
    assert "Traceback" in (runs.out() / "compile.log").read_text()


def test_a_short_run_is_left_alone(runs: Runs) -> None:
    later = CompileLater(load_run_config([f"config={runs.config}"]), runs.folder)
    later.consider(PAYS_S - 1)
    assert not later.is_ready()
    assert not (runs.folder / "compile.log").exists()
    later.consider(PAYS_S)
    assert (runs.folder / "compile.log").exists()
    later.close()
    assert not later.is_ready()


@pytest.mark.parametrize("layout", ["fsdp_type=full_shard", "tp_size=2", "cuda_graphs=true"])
def test_not_where_the_model_cannot_be_compiled_afterwards(runs: Runs, layout: str) -> None:
    settings = ("distributed.compile=later", f"distributed.{layout}", "data={seq_len: 64}")
    done = runs.run(*settings, check=False, processes=2 if layout == "tp_size=2" else 1)
    assert done.returncode == 1
    assert "distributed.compile = later: not offered with" in done.stdout + done.stderr
