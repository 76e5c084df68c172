"""What a step costs the CPU beside its arithmetic."""

from unittest.mock import Mock

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from benchmarks.operations import Launched
from tests.trainer.conftest import Runs, losses
from tests.trainer.loop.open_run import open_run
from trainer.config import ModelConfig, OptimConfig
from trainer.execution.layout import synchronised
from trainer.loop.step import train_step
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


def test_gradients_are_reduced_in_the_last_micro_batch_only(runs: Runs) -> None:
    reduced: list[bool] = []
    session = open_run(runs, "grad_acc_steps=3", "data.batch_size=1")
    try:
        session.learner.trained.set_requires_gradient_sync = reduced.append  # as FSDP2's
        train_step(session.learner, next(session.loader))
    finally:
        session.close()
    assert reduced == [False, False, True]
    ddp = Mock(spec=DistributedDataParallel)
    assert synchronised(ddp, is_last=False) is ddp.no_sync.return_value
    ddp.reset_mock()
    synchronised(ddp, is_last=True)
    ddp.no_sync.assert_not_called()


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
