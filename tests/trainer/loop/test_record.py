"""Records of intervals that are not in steady state."""

import os
import signal

import pytest

from tests.trainer.conftest import Runs, kept_handlers, read_records
from tests.trainer.loop.open_run import open_run
from trainer.loop.summary import open_journal
from trainer.loop.train import train


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
