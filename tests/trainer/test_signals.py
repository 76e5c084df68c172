"""Signals that stop a run, against those of torchrun."""

from torch.distributed.run import get_args_parser

from trainer.signals import STOP_SIGNALS, TORCHRUN_SIGNALS


def test_torchrun_forwards_these_by_default() -> None:
    assert get_args_parser().get_default("signals_to_handle") == TORCHRUN_SIGNALS


def test_sigusr1_and_sigusr2_need_an_option_of_torchrun() -> None:
    missing = {number.name for number in STOP_SIGNALS} - set(TORCHRUN_SIGNALS.split(","))
    assert missing == {"SIGUSR1", "SIGUSR2"}
