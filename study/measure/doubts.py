"""Warnings about measurements that may not be reliable.

The throughput table marks such rows and explains the marks in footnotes; the time table has the
warnings in its notes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from study.formats import format_number_of

WIDE_SPREAD = 0.25
"""Largest (p90 - p10) / p50 of the step time at which the median still represents the steps.

Runs of the default study had 0.07 to 0.22 on two idle cores, and the one with the shortest steps
0.40; with eight other busy processes on the two cores they had 0.55 and more.
"""

BUSY_SHARE = 0.1
"""Largest mean share of the machine's cores used by other processes without a warning.

The daemons of an idle machine stay far below; one busy process on up to nine cores is above.
"""

FEW_INTERVALS = 4
"""Intervals in steady state from which on their spread, and the error of their mean, are known."""

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def is_wide(spread: float | None) -> bool:
    """Return whether step times vary too much for the median to be reliable."""
    return spread is not None and spread > WIDE_SPREAD


def is_busy(load: float | None, cores: float | None) -> bool:
    """Return whether other processes used too many of a machine's cores while a run trained."""
    return load is not None and cores is not None and load > BUSY_SHARE * cores


def describe_spread(spread: float | None) -> str:
    """Return the warning about the spread of a run's step times; empty if it is narrow."""
    if not is_wide(spread):
        return ""
    return f"with a wide spread (p90 - p10 of the step time is {spread:.0%} of p50)"


def is_few(intervals: int | None) -> bool:
    """Return whether a run has too few intervals to tell how much its step times vary."""
    return intervals is not None and intervals < FEW_INTERVALS


def describe_few(intervals: int | None) -> str:
    """Return the warning about a run with few intervals; empty if it has enough."""
    if intervals is None or not is_few(intervals):
        return ""
    return f"with only {format_number_of(intervals, 'interval')} in steady state"


def describe_load(load: float | None, cores: float | None) -> str:
    """Return the warning about other load on the run's machine; empty if there was little."""
    if not is_busy(load, cores):
        return ""
    return f"on a busy machine (other processes took {load:.1f} of its {cores:.0f} cores)"


def describe_divergence(steps: Sequence[int | None], runs: int) -> str:
    """Return the warning about a cell whose runs all diverged; empty if one of them did not.

    `steps` are the last steps of the diverged ones, of `runs`.
    """
    if len(steps) < runs:
        return ""
    known = [step for step in steps if step is not None]
    return "from a run that diverged" + (f" at step {max(known):,}" if known else "")


def row_doubts(row: Mapping[str, Any]) -> list[str]:
    """Return the warnings about a row of the throughput table, whose unknown values are None."""
    doubts = []
    if row.get("step_ms_p50") and row.get("startup_s") is None and row.get("wall_s") is None:
        doubts.append("only the step time was measured, not the start-up or the time of the run")
    if is_wide(row["step_spread"]):
        doubts.append(
            f"wide spread: p90 - p10 of the step time is more than {WIDE_SPREAD:.0%} of p50"
        )
    if row.get("step_ms_p50") and is_few(row.get("steady_intervals")):
        what = "how much the step time varies is hardly known"
        doubts.append(f"fewer than {FEW_INTERVALS} intervals in steady state: {what}")
    if is_busy(row["machine_load"], row["machine_cores"]):
        doubts.append(f"busy machine: other processes took more than {BUSY_SHARE:.0%} of its cores")
    if row.get("began_again"):
        doubts.append(f"began again from step 1, as {row['trainer']} does not resume")
    if row.get("other_text"):
        which = "its text, to train on or held out, is not"
        doubts.append(f"{which} that of {row['other_text']}: their losses do not compare")
    reference = row["efficiency_reference"]
    own = f"/{row['variant']}/seed-{row['seed']}"
    if reference is not None and row["scaling_efficiency"] is None:
        doubts.append(f"no scaling efficiency: {reference} ran on another GPU or CPU")
    elif reference is not None and not reference.endswith(own):
        doubts.append(f"scaling efficiency against {reference}")
    return doubts


def footnotes(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the footnote marks of each row, and the footnotes, each with its mark.

    Rows with the same warning share a footnote.
    """
    doubts = [row_doubts(row) for row in rows]
    notes = dict.fromkeys(text for row in doubts for text in row)
    numbers = {text: number for number, text in enumerate(notes, 1)}
    marks = [sorted(numbers[text] for text in row) for row in doubts]
    return (
        [" ".join(str(number).translate(SUPERSCRIPTS) for number in row) for row in marks],
        [f"{str(number).translate(SUPERSCRIPTS)} {text}" for text, number in numbers.items()],
    )
