"""What a step costs the CPU beside its arithmetic."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.operations import Launched
from tests.trainer.conftest import Runs, kept_handlers, long, losses, read_records
from tests.trainer.loop.open_run import open_run
from trainer.config import ModelConfig, OptimConfig
from trainer.loop.step import train_step
from trainer.loop.summary import open_journal
from trainer.loop.train import train
from trainer.model.adamw import AdamW
from trainer.model.model import Transformer


@pytest.mark.parametrize("passes", [1, 2])
def test_a_step_does_not_wait_for_the_device(runs: Runs, passes: int) -> None:
    """A host synchronisation is a number read off the device: none until a step is recorded."""
    session = open_run(runs, f"grad_acc_steps={passes}")
    try:
        with Launched() as operations:
            loss, norm = train_step(session.learner, next(session.loader))
        assert operations.counts["_fused_adamw_"] == 2
        assert operations.counts["_local_scalar_dense"] == 0
        with operations:
            assert loss.item() > 0
            assert norm.item() > 0
        assert operations.counts["_local_scalar_dense"] == 2
    finally:
        session.close()


def test_fewer_operations_than_one_matrix_at_a_time() -> None:
    """A layer has 4 products forward for 7, and 8 backward for 14."""
    tokens = torch.randint(258, (2, 17), generator=torch.Generator().manual_seed(0))
    counts = {}
    for fused in (True, False):
        config = ModelConfig(dim=32, n_layers=3, n_heads=2)
        model = Transformer(config, 258, 16, fused=fused)
        model.init_weights(0)
        optimizer = AdamW(model, OptimConfig())
        with Launched() as operations:
            model(tokens[:, :-1], tokens[:, 1:]).backward()
            optimizer.step(optimizer.grad_norm())
        counts[fused] = operations.counts
    assert counts[True]["mm"] == 3 * (4 + 8) + 3
    assert counts[False]["mm"] == 3 * (7 + 14) + 3
    assert counts[True].total() < counts[False].total()


SWITCHES = {
    "plain": ("fused_projections=false", "cpu_matmul=mkl", "attention=math", "compile=false"),
    "fused": ("fused_projections=true", "cpu_matmul=onednn", "compile=false"),
    "chunked": ("loss_chunk=32", "keep_memory=false", "freeze_gc=false", "compile=false"),
}


def test_switches_do_not_change_losses(runs: Runs) -> None:
    """Each way to compute a step gives the losses of the plain one, to the rounding of sums."""
    switched = {
        name: [f"distributed.{switch}" for switch in switches]
        for name, switches in SWITCHES.items()
    }
    switched["loops"] = ["distributed.compile=false", "optim.fused=false"]
    runs.run_several(
        [
            [f"config={runs.config}", f"dump_dir={runs.out(name)}", *settings]
            for name, settings in switched.items()
        ]
    )
    found = {name: [loss for _, loss in losses(runs.out(name))] for name in switched}
    assert len(found["plain"]) >= 10
    for name, values in found.items():
        assert values == pytest.approx(found["plain"], abs=2e-5), name


def read_facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return facts


def test_run_json_records_the_choices(runs: Runs) -> None:
    runs.run("steps=2", "eval=null", "distributed={model_dtype: auto}")
    facts = read_facts(runs.out())
    assert facts["device"] == "cpu"
    assert facts["cores_per_rank"] >= 1
    assert facts["choices"]["compiled"] is False
    assert facts["choices"]["model_dtype"] in ("bf16", "fp32")
    assert None not in facts["choices"].values()
    assert [record["global_step"] for record in read_records(runs.out())] == [1, 2]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("attention=cudnn", "distributed.attention = cudnn: not supported on a CPU"),
        ("attention=flesh", "distributed.attention"),
    ],
)
def test_kernels_that_a_cpu_lacks_are_rejected(runs: Runs, setting: str, message: str) -> None:
    done = runs.run(f"distributed.{setting}", check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("recipe", ["tensorwise", pytest.param("rowwise", marks=long)])
def test_float8_stays_near_bf16(runs: Runs, recipe: str) -> None:
    """torchao's products run on a CPU too; what float8 rounds off shows, and is small."""
    settings = ("model.dim=64", "distributed.model_dtype=bf16", "eval=null")
    runs.run(f"dump_dir={runs.out('bf16')}", *settings)
    runs.run(f"dump_dir={runs.out('float8')}", f"distributed.float8_recipe={recipe}", *settings)
    wide, narrow = ([loss for _, loss in losses(runs.out(name))] for name in ("bf16", "float8"))
    assert narrow == pytest.approx(wide, abs=0.03)
    assert narrow != wide


def test_intervals_that_are_not_steady_say_so(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps until a CUDA graph is captured have a record of their own; and a suspension."""
    session = open_run(runs, "steps=20", "logging.freq=5")
    session.learner.warm_up_steps = 4

    def begin(step: int) -> None:
        if step == 12:
            os.kill(os.getpid(), signal.SIGCONT)  # as when a job is resumed

    monkeypatch.setattr(session.profiler, "begin", begin)
    with kept_handlers():
        open_journal(session)
        assert train(session) == 0
        session.close()
    records = read_records(runs.folder / "out")
    paused = {record["global_step"]: record["time/paused"] for record in records}
    assert paused == {1: None, 4: True, 5: None, 10: None, 15: True, 20: None}
    assert [record["time/interval_steps"] for record in records] == [1, 3, 1, 5, 5, 5]
