import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# A child of a job step's Snakemake, in its process group: it records the signals it receives.
BELOW = """
import signal, sys, time
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: (print(int(number), flush=True), sys.exit()))
print("ready", flush=True)
time.sleep(30)
"""

STEP = f"""
import signal, subprocess, sys
from study.jobs.stop_requests import forward_stop_requests
forward_stop_requests()
signal.signal(signal.SIGTERM, lambda number, frame: None)  # as Snakemake does, later
subprocess.run([sys.executable, "-c", {BELOW!r}])
"""


def run_step(number: int, **environment: str) -> str:
    """Send a signal only to the step's first process; return the output of its child."""
    step = subprocess.Popen(
        [sys.executable, "-c", STEP],
        cwd=Path(__file__).parents[3],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert step.stdout is not None
    assert step.stdout.readline() == "ready\n"
    os.kill(step.pid, number)
    try:
        step.wait(3)
    except subprocess.TimeoutExpired:
        os.killpg(step.pid, signal.SIGKILL)
        step.wait()
    with step.stdout:
        return step.stdout.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_step_forwards_signals_to_its_first_process(number: int) -> None:
    assert run_step(number, SLURM_STEP_ID="0") == f"{int(number)}\n"


def test_outside_slurm_signals_are_not_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    assert run_step(signal.SIGTERM) == ""
