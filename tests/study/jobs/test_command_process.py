"""Another trainer's command as a process."""

import os
import signal
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from study.jobs import command_process
from study.jobs.command_process import FORWARDED, receiving, run_beside
from study.jobs.foreign_job import ForeignJob
from study.trainers import StopSignal
from tests.waiting import wait_until


def test_torchrun_forwards_whatever_asks_a_trainer_to_stop() -> None:
    """By default it would end at SIGUSR1 and SIGUSR2, and its ranks with it."""
    assert set(get_args(StopSignal)) <= set(FORWARDED.split(","))


def job_in(folder: Path) -> ForeignJob:
    """Return a job of two nodes that is started in a folder."""
    return ForeignJob(
        trainer="mine", workdir=str(folder), log={"format": "lingua", "file": "metrics.jsonl"},
        fingerprint="0", params=1, tokens_per_step=1, steps=1, gpus=2, nodes=2, device="cpu",
    )  # fmt: skip


def test_a_stop_request_during_the_start_on_a_further_node_reaches_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = command_process.start_command

    def start_and_be_asked(*given: Any) -> Any:
        process = start(*given)
        wait_until((tmp_path / "ready").exists, "the command handles signals")
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr(command_process, "start_command", start_and_be_asked)
    script = "trap 'exit 7' TERM; touch ready; for i in {1..100}; do sleep 0.1; done"
    with receiving(lambda number, frame: None):  # instead of ending the tests
        assert run_beside(job_in(tmp_path), ["bash", "-c", script]) == 7


def test_a_further_node_does_not_wait_for_what_the_command_leaves_behind(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Such as a tracker's service, until the job's time limit."""
    began = time.monotonic()
    try:
        with receiving(lambda number, frame: None):
            code = run_beside(
                job_in(tmp_path), ["bash", "-c", "echo said; sleep 60 & echo $! > left; exit 3"]
            )
    finally:
        os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)
    assert code == 3
    assert time.monotonic() - began < 60
    assert capfd.readouterr().out == "said\n"
