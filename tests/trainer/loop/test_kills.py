"""A run that is killed again and again ends with the losses of one that was left alone."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from tests.trainer.conftest import Runs, digest_of, long, losses, read_records
from tests.waiting import PATIENCE_S, wait_until
from trainer.folder import checkpoint
from trainer.folder.checkpoint_state import of_step
from trainer.signals import STOP_SIGNALS

CHECKPOINT = "checkpoint={dump: {every: 4, keep: 2}, eval: {every: 30}}"

SCHEDULE = "optim={scheduler: wsd}"
"""The learning rate falls in the last tenth of the steps."""


def steps_done(folder: Path) -> int:
    try:
        return len((folder / "metrics.jsonl").read_text().splitlines())
    except FileNotFoundError:  # also one that has just moved to superseded/
        return 0


def is_saving(folder: Path) -> bool:
    return any(folder.glob("checkpoints/.saving-*"))


def wait_for_a_moment(process: subprocess.Popen[str], folder: Path, rng: random.Random) -> None:
    """Wait a few steps more; sometimes for a moment of the start, or of a save."""
    before, wanted, kind = steps_done(folder), rng.randrange(1, 8), rng.random()
    if kind < 0.2:
        end = time.monotonic() + rng.uniform(0.1, 4)
        wait_for(process, lambda: time.monotonic() > end or steps_done(folder) > before)
        return
    wait_for(process, lambda: steps_done(folder) >= before + wanted)
    if kind < 0.5:
        wait_for(process, lambda: is_saving(folder))
        time.sleep(rng.uniform(0, 0.01))
    else:
        time.sleep(rng.uniform(0, 0.05))


def wait_for(process: subprocess.Popen[str], come: Callable[[], bool]) -> None:
    """Wait until something comes, or the run has ended."""
    wait_until(lambda: process.poll() is not None or come(), "the run goes on", pause_s=0.0005)


def kill_one(process: subprocess.Popen[str], rng: random.Random) -> str:
    """Hit a rank or the launcher, and wait for the end of all; return what was done."""
    if process.poll() is not None:
        process.communicate()
        return "it had ended"
    ranks = psutil.Process(process.pid).children(recursive=True)
    victim = rng.choice([*ranks, psutil.Process(process.pid)])
    number = rng.choice([signal.SIGKILL, signal.SIGKILL, *STOP_SIGNALS])
    victim.send_signal(number)
    if number == signal.SIGKILL and victim.pid == process.pid:
        # The ranks have sessions of their own and outlive the launcher; the machine is to be free.
        for rank in ranks:
            rank.kill()
    process.communicate(timeout=PATIENCE_S)
    psutil.wait_procs(ranks, timeout=PATIENCE_S)
    return f"{number.name} to {'the launcher' if victim.pid == process.pid else 'a rank'}"


def evaluations(folder: Path) -> list[tuple[int, float]]:
    records = read_records(folder, "metrics.eval.jsonl")
    return [(record["global_step"], record["eval/loss"]) for record in records]


@pytest.mark.parametrize(
    ("processes", "kills", "branch"),
    [
        (1, 4, 0),
        (1, 3, 40),
        (2, 1, 0),
        *(pytest.param(count, 30, 0, marks=long) for count in (1, 2, 4)),
        *(pytest.param(count, 30, 40, marks=long) for count in (1, 2)),
    ],
)
def test_killed_and_restarted(runs: Runs, processes: int, kills: int, branch: int) -> None:
    """If `branch` is not 0, the killed run continues that step of a longer one."""
    whole, out, source = runs.out("whole"), runs.out(), runs.out("source")
    steps = branch + 80 + 24 * kills  # each attempt may get 14 on, and then waits for a save
    settings = [CHECKPOINT, SCHEDULE, f"data.batch_size={4 // processes}"]
    if branch:
        # Long before its decay, as the run that is not killed.
        keep = f"checkpoint={{dump: {{every: {branch}, keep: 0}}}}"
        longer = ["steps=60", keep, f"dump_dir={source}"]
        runs.run(*settings, *longer, processes=processes)
    saved = digest_of(source)
    settings.append(f"steps={steps}")
    runs.run(f"dump_dir={whole}", *settings, processes=processes)
    if branch:
        settings.append(f"checkpoint.continue_from={source}/checkpoints/{branch:010d}")
    rng = random.Random(f"{processes} {kills} {branch}")
    done = []
    for _ in range(kills):
        process = runs.start(*settings, processes=processes)
        wait_for_a_moment(process, out, rng)
        saving = is_saving(out)
        done.append(kill_one(process, rng) + " during a save" * saving)
    runs.run(*settings, processes=processes)
    assert losses(out) == [item for item in losses(whole) if item[0] > branch], done
    assert evaluations(out) == [item for item in evaluations(whole) if item[0] > branch], done
    weights, expected = (
        checkpoint.load_weights(of_step(path / "checkpoints", steps)) for path in (out, whole)
    )
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items()), done
    assert digest_of(source) == saved
    assert not [*out.glob("checkpoints/.saving-*"), *out.glob(".*.[0-9]*")]
    print(*done, sep="\n")
    assert "it had ended" not in done
    if kills == 30:
        ways = [number.name for number in (signal.SIGKILL, *STOP_SIGNALS)]
        for way in (*ways, "launcher", *["a rank"] * (processes > 1), "a save"):
            assert any(way in text for text in done), done
