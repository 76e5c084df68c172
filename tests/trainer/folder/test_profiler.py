import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import Runs, losses


def spans(path: Path) -> dict[int, tuple[float, float]]:
    """Return step -> begin and duration in microseconds, of a trace."""
    trace = json.loads(gzip.decompress(path.read_bytes()))
    events: list[dict[str, Any]] = trace["traceEvents"]
    named = {
        int(found[1]): (event["ts"], event["dur"])
        for event in events
        if event.get("ph") == "X" and (found := re.fullmatch(r"step (\d+)", event["name"]))
    }
    # What a person opens a trace for lies within the steps.
    begin, end = min(t for t, _ in named.values()), max(t + d for t, d in named.values())
    products = [event["ts"] for event in events if event.get("name") == "aten::mm"]
    assert products
    assert all(begin <= time <= end for time in products)
    return named


WINDOW = ("profiling.run=true", "profiling.profile_warmup=3", "profiling.profile_steps=2")


@pytest.mark.parametrize("processes", [1, 2])
def test_each_rank_writes_the_window(runs: Runs, processes: int) -> None:
    runs.run("steps=7", "eval=null", *WINDOW, processes=processes)
    found = {path.name: spans(path) for path in (runs.out() / "profiling").iterdir()}
    assert set(found) == {f"step-4-rank-{rank}.json.gz" for rank in range(processes)}
    for steps in found.values():
        assert sorted(steps) == [4, 5]
        assert steps[4][0] + steps[4][1] <= steps[5][0]


def test_a_window_counts_from_the_attempt_and_may_be_truncated(runs: Runs) -> None:
    runs.run("steps=4", "eval=null", "profiling.trace_folder=traces", *WINDOW)
    assert sorted(spans(runs.out() / "traces" / "step-4-rank-0.json.gz")) == [4]
    assert len(list((runs.out() / "traces").iterdir())) == 1


def test_profiling_changes_no_loss(runs: Runs) -> None:
    runs.run(f"dump_dir={runs.out('plain')}", "steps=7")
    runs.run(f"dump_dir={runs.out('profiled')}", "steps=7", *WINDOW)
    assert losses(runs.out("plain")) == losses(runs.out("profiled"))
    assert not (runs.out("plain") / "profiling").exists()
