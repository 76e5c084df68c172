"""Another trainer's command as a process."""

from typing import get_args

from study.jobs.command_process import FORWARDED
from study.trainers import StopSignal


def test_torchrun_forwards_whatever_asks_a_trainer_to_stop() -> None:
    """By default it would end at SIGUSR1 and SIGUSR2, and its ranks with it."""
    assert set(get_args(StopSignal)) <= set(FORWARDED.split(","))
