"""A run that is killed again and again ends with the losses of one that was left alone."""

import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.trainer.conftest import Runs, losses

SETTINGS = ("steps=800", "checkpoint={dump: {every: 4, keep: 2}, eval: {every: 30}}")


def steps_done(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for_a_moment(process: subprocess.Popen[str], folder: Path, rng: random.Random) -> None:
    """Wait a few steps more, or, one time in five, for a moment of the start."""
    before, wanted = steps_done(folder), rng.randrange(1, 8)
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0.1, 4))
        return
    deadline = time.monotonic() + 60
    while process.poll() is None and steps_done(folder) < before + wanted:
        assert time.monotonic() < deadline, "the run does not go on"
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.05))


def kill_one(process: subprocess.Popen[str], rng: random.Random) -> str:
    """Hit a rank or the launcher, and wait for the end of all; return what was done."""
    if process.poll() is not None:
        process.communicate()
        return "it had ended"
    ranks = psutil.Process(process.pid).children(recursive=True)
    victim = rng.choice([*ranks, psutil.Process(process.pid)])
    number = rng.choice([signal.SIGKILL, signal.SIGTERM])
    victim.send_signal(number)
    if number == signal.SIGKILL and victim.pid == process.pid:
        # The ranks have sessions of their own and outlive the launcher; the machine is to be free.
        for rank in ranks:
            rank.kill()
    process.communicate(timeout=60)
    psutil.wait_procs(ranks, timeout=40)
    return f"{number.name} to {'the launcher' if victim.pid == process.pid else 'a rank'}"


@pytest.mark.parametrize(("processes", "kills"), [(1, 26), (2, 4)])
def test_killed_and_started_again(runs: Runs, processes: int, kills: int) -> None:
    runs.run(f"dump_dir={runs.out('whole')}", *SETTINGS, processes=processes)
    rng = random.Random(processes)
    done = []
    for _ in range(kills):
        process = runs.start(*SETTINGS, processes=processes)
        wait_for_a_moment(process, runs.out(), rng)
        done.append(kill_one(process, rng))
    runs.run(*SETTINGS, processes=processes)
    assert losses(runs.out()) == losses(runs.out("whole")), done
    assert "it had ended" not in done
