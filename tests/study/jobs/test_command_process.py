"""Another trainer's command as a process."""

import os
import signal
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
    job = ForeignJob(
        trainer="mine", workdir=str(tmp_path), log={"format": "lingua", "file": "metrics.jsonl"},
        fingerprint="0", params=1, tokens_per_step=1, steps=1, gpus=2, nodes=2, device="cpu",
    )  # fmt: skip
    with receiving(lambda number, frame: None):  # instead of ending the tests
        assert run_beside(job, ["bash", "-c", script]) == 7
