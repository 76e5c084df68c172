"""Runs with bf16 copies of the weights have the losses of runs without."""

import signal
import subprocess

import pytest

from tests.trainer.conftest import Runs, losses, wait_for_step
from tests.waiting import PATIENCE_S
from trainer.records import EXIT_PREEMPTED

# Clipping would add the rounding errors of a norm that is summed in another order.
ALIKE = (
    *("distributed.model_dtype=bf16", "optim.fused=false", "optim.clip=null"),
    *("model.n_layers=1", "data.seq_len=16", "steps=200"),
    *("checkpoint.dump.every=100", "eval=null"),
)


def start_with_copies(runs: Runs, arguments: list[str], processes: int) -> subprocess.Popen[str]:
    command = runs.command(*arguments, processes=processes)
    command[command.index("trainer")] = "tests.trainer.with_copies"
    return subprocess.Popen(command, env=runs.environment(), text=True)


@pytest.mark.parametrize(
    ("processes", "settings"),
    [
        (1, ["distributed.compile=true"]),
        (1, ["grad_acc_steps=2", "data.batch_size=2"]),
        (2, ["data.batch_size=2"]),
    ],
    ids=["compiled", "micro-batches", "DDP"],
)
def test_a_resumed_run(runs: Runs, processes: int, settings: list[str]) -> None:
    """Stopped at some step: the copies are made from the weights of its checkpoint."""
    alike = [*ALIKE, *settings]
    runs.run(f"dump_dir={runs.out('plain')}", *alike, processes=processes)
    own = [f"dump_dir={runs.out('own')}", *alike]
    first = start_with_copies(runs, own, processes)
    wait_for_step(runs.out("own"), 10)
    first.send_signal(signal.SIGTERM)
    expected = EXIT_PREEMPTED if processes == 1 else 1  # torchrun's own
    assert first.wait(timeout=PATIENCE_S) == expected
    assert start_with_copies(runs, own, processes).wait(timeout=PATIENCE_S) == 0
    assert losses(runs.out("own")) == losses(runs.out("plain"))
