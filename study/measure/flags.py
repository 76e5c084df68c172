"""What a reader has to know about a measurement before relying on it, in words.

The throughput table marks such rows and explains the marks below; the time table says it in its
notes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

WIDE_SPREAD = 0.25
"""p90 - p10 of the step time over p50, above which the median says little of the other steps.

Runs of the default study had 0.07 to 0.22 on two cores of their own, and one with the shortest
steps 0.40; the same on two cores with eight other busy processes had 0.55 and more.
"""

BUSY_SHARE = 0.1
"""Share of the machine's cores that other processes may take, on average, without a flag.

An idle machine's daemons stay far below; one other busy process on up to nine cores is above.
"""

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def is_wide(spread: float | None) -> bool:
    """Say whether steps of a run differ so much that its median is in doubt."""
    return spread is not None and spread > WIDE_SPREAD


def is_busy(load: float | None, cores: float | None) -> bool:
    """Say whether other processes took too many of a machine's cores while a run trained."""
    return load is not None and cores is not None and load > BUSY_SHARE * cores


def describe_spread(spread: float | None) -> str:
    """Return what to say of the spread of a run's steps; nothing if it is narrow."""
    if not is_wide(spread):
        return ""
    return f"with a wide spread (p90 - p10 of the step time is {spread:.0%} of p50)"


def describe_load(load: float | None, cores: float | None) -> str:
    """Return what to say of the machine a run trained on; nothing if the run had it to itself."""
    if not is_busy(load, cores):
        return ""
    return f"on a busy machine (other processes took {load:.1f} of its {cores:.0f} cores)"


def row_flags(row: Mapping[str, Any]) -> list[str]:
    """Return what to know about a row of the throughput table; a value not known is None."""
    flags = []
    if is_wide(row["step_spread"]):
        flags.append(
            f"wide spread: p90 - p10 of the step time is more than {WIDE_SPREAD:.0%} of p50"
        )
    if is_busy(row["machine_load"], row["machine_cores"]):
        flags.append(f"busy machine: other processes took more than {BUSY_SHARE:.0%} of its cores")
    reference = row["efficiency_reference"]
    own = f"/{row['variant']}/seed-{row['seed']}"
    if reference is not None and not reference.endswith(own):
        flags.append(f"scaling efficiency against {reference}")
    return flags


def footnotes(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the marks of each row, and the notes that they lead to, each with its mark.

    Rows of which the same is to be said share a note.
    """
    flags = [row_flags(row) for row in rows]
    numbers = {
        text: str(number).translate(SUPERSCRIPTS)
        for number, text in enumerate(dict.fromkeys(text for row in flags for text in row), 1)
    }
    marks = [" ".join(numbers[text] for text in row) for row in flags]
    return marks, [f"{number} {text}" for text, number in numbers.items()]
