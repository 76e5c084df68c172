"""What records say of their intervals."""

import os
import signal
import statistics
from dataclasses import replace

import pytest

from tests.trainer.conftest import Runs, account, kept_handlers, read_records
from tests.trainer.loop.open_run import open_run
from tests.trainer.small_runs import make_summary
from trainer import gpu_state
from trainer.folder.checkpoint_state import of_step, read_state
from trainer.gpu_state import GpuMeter, GpuState
from trainer.loop.session import Session
from trainer.loop.stop_signal import StopSignal
from trainer.loop.summary import open_journal
from trainer.loop.train import train
from trainer.records import EXIT_PREEMPTED, Attempt


def train_to_the_end(session: Session) -> None:
    with kept_handlers():
        open_journal(session)
        assert train(session) == 0
        session.close()


def test_intervals_that_are_not_steady_say_so(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps until a CUDA graph is captured have a record of their own; and a suspension.

    Each record has the load of other processes in its interval.
    """
    session = open_run(runs, "steps=20", "logging.freq=5")
    session.learner.warm_up_steps = 4

    def begin(step: int) -> None:
        if step == 12:
            os.kill(os.getpid(), signal.SIGCONT)  # as when a job is resumed

    monkeypatch.setattr(session.profiler, "begin", begin)
    loads = iter([None, 0.25, 0.5, 0.75, 1.0, 1.25])
    monkeypatch.setattr(session.load, "read", lambda: next(loads))
    train_to_the_end(session)
    records = read_records(runs.folder / "out")
    paused = {record["global_step"]: record["time/paused"] for record in records}
    assert paused == {1: None, 4: True, 5: None, 10: None, 15: True, 20: None}
    assert [record["time/interval_steps"] for record in records] == [1, 3, 1, 5, 5, 5]
    assert [record["machine/load"] for record in records] == [None, 0.25, 0.5, 0.75, 1.0, 1.25]


def test_the_time_of_a_run_includes_its_earlier_attempts(runs: Runs) -> None:
    """Of which one was the third, and had saved after a million seconds."""
    session = open_run(runs, "steps=4")
    session.start = replace(session.start, elapsed_s=1e6)
    earlier = Attempt(attempt=3, start="2026-01-01T00:00:00+00:00", fingerprint="f")
    session.earlier = make_summary(attempts=(earlier,))
    train_to_the_end(session)
    records = read_records(runs.out())
    evaluations = read_records(runs.out(), "metrics.eval.jsonl")
    assert len(records) == 3
    assert len(evaluations) == 1
    for written in (*records, *evaluations):
        assert 1e6 < written["time/elapsed_s"] < 2e6
        assert written["attempt"] == 4
    assert 1e6 < read_state(of_step(runs.out() / "checkpoints", 4))["elapsed_s"] < 2e6


def test_a_gpu_is_sampled_at_records(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_run(runs, "steps=2", "eval=null")
    session.gpu = GpuMeter("some")
    monkeypatch.setattr(gpu_state, "read", lambda uuid: GpuState(1500, 650.0, ()))
    train_to_the_end(session)
    assert account(runs.out())["gpu_conditions"]["clock_mhz"] == 1500


def test_a_record_sums_up_its_interval(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one record for each step has it; also where an interruption divides the interval."""
    settings = ("steps=10", "eval=null", "checkpoint={}")
    assert runs.here(*settings, "logging.freq=1", f"dump_dir={runs.out('each')}") == 0
    answers = iter([False] * 7 + [True])
    monkeypatch.setattr(StopSignal, "agreed", lambda signal: next(answers, False))
    assert runs.here(*settings, "logging.freq=5") == EXIT_PREEMPTED
    assert runs.here(*settings, "logging.freq=5") == 0
    each = {record["global_step"]: record for record in read_records(runs.out("each"))}
    records = read_records(runs.out())
    assert [record["global_step"] for record in records] == [1, 5, 10]
    for record, first in zip(records, (1, 2, 6), strict=True):
        step = record["global_step"]
        mean = statistics.mean(each[one]["loss/step"] for one in range(first, step + 1))
        assert record["loss/out"] == pytest.approx(mean, rel=1e-6)
        for key in ("loss/step", "optim/lr", "optim/grad_norm", "optim/total_tokens", "data/epoch"):
            assert record[key] == each[step][key]
        assert record["speed/tokens_per_s"] == pytest.approx(4 * 64 / record["time/step_s"])
        assert record["speed/wps"] == record["speed/tokens_per_s"]
        flops = 6 * (2 * (4 * 32**2 + 3 * 32 * 96 + 2 * 32) + 32 + 258 * 32) + 12 * 2 * 64 * 32
        assert record["speed/tflops_per_gpu"] == pytest.approx(record["speed/wps"] * flops / 1e12)
