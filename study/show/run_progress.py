"""How far a run is and how fast, from the end of its metrics.jsonl, which may be being written."""

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from trainer.files import read_end
from trainer.records import Record, SlowRank

TAIL_BYTES = 65_536
"""The end of a metrics.jsonl that is read: about a hundred records."""

SLOW = 1.5
"""Step time over the run's own median that is pointed out."""

RECENT = 5
"""Last records, most of which a rank must be slow in to be pointed out."""

SLOW_PARTS = {
    "data": "waits for data",
    "forward": "is slow in the forward pass",
    "clock": "has a GPU with a low clock",
}
"""`SlowRank.part` -> what the rank does."""


@dataclass(frozen=True)
class RunProgress:
    """What the end of a run's metrics.jsonl tells."""

    step: int
    attempt: int
    loss: float | None
    tokens_per_s_per_gpu: float | None
    pace_s: float
    """Time of a step, s, with pauses for checkpoints and evaluations, over the records read."""
    interval_s: float
    """Time between two records, s."""
    slowdown: float
    """Last step time over the median of those before."""
    slow_rank: SlowRank | None
    """The rank that the others waited for in most of the last `RECENT` records."""


def read_progress(path: Path) -> RunProgress | None:
    """Return what the last whole lines of a metrics.jsonl tell; None if there are none."""
    try:
        lines = read_end(path, TAIL_BYTES).split(b"\n")
    except OSError:
        return None
    records = []
    # The first may be the end of a line, and the last an incomplete one; broken ones are skipped.
    for line in lines[:-1]:
        try:
            records.append(Record.model_validate_json(line))
        except ValidationError:
            continue
    return _progress(records) if records else None


def _progress(records: list[Record]) -> RunProgress:
    last = records[-1]
    records = [record for record in records if record.attempt == last.attempt]
    first, times = records[0], [record.step_s for record in records]
    steps, pace_s = last.step - first.step, last.step_s
    if steps > 0:
        pace_s = (last.elapsed_s - first.elapsed_s) / steps
    usual = statistics.median(times[1:-1]) if len(times) > 3 else 0.0
    return RunProgress(
        step=last.step,
        attempt=last.attempt,
        loss=last.loss,
        tokens_per_s_per_gpu=last.tokens_per_s_per_gpu,
        pace_s=pace_s,
        interval_s=last.interval_steps * pace_s,
        slowdown=last.step_s / usual if usual else 1.0,
        slow_rank=_slow_rank(records[-RECENT:]),
    )


def _slow_rank(records: list[Record]) -> SlowRank | None:
    found = [record.slow_rank for record in records if record.slow_rank is not None]
    alike = Counter((slow.rank, slow.part) for slow in found)
    frequent = [slow for slow in found if 2 * alike[slow.rank, slow.part] > RECENT]
    return frequent[-1] if frequent else None


def find_slowness(progress: RunProgress) -> Iterator[str]:
    """Yield what slows a run down, for people."""
    if progress.slowdown > SLOW:
        yield f"steps take x{progress.slowdown:.1f} of its median"
    slow = progress.slow_rank
    if slow is not None:
        does = SLOW_PARTS[slow.part]
        yield f"rank {slow.rank} on {slow.host} {does}, by {slow.share:.0%} of a step"
