"""Whether runs read the same text: the columns `text` and `other_text` of the throughput table.

Runs read the same text if they read its sources from one folder with one tokenizer. If the folder's
text changed between two of them, their run.json have different keys of it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from study.grid import Cell, Grid
from study.measure.throughput_row import ThroughputRow

DIGITS = 12
"""Hex digits of a text's digest."""

Content = Mapping[str, str] | None
"""Source -> key of its text, `RunSummary.content`; None if that is not known."""


def text_columns(
    grid: Grid, cells: Sequence[Cell], rows: Sequence[ThroughputRow], contents: Sequence[Content]
) -> list[dict[str, str | None]]:
    """Return the columns text and other_text of each run.

    `rows` are the cells' measurements, `contents` what the runs say of their text.
    """
    others = find_other_texts(grid, cells, contents, [row.started for row in rows])
    return [
        {"text": _digest(content), "other_text": other}
        for content, other in zip(contents, others, strict=True)
    ]


def find_other_texts(
    grid: Grid, cells: Sequence[Cell], contents: Sequence[Content], started: Sequence[str]
) -> list[str | None]:
    """Return the newest run with a source of each run, where it read another text of it.

    `started`: when the runs did, ISO 8601.
    """
    keys = [_keys(grid, *pair) for pair in zip(cells, contents, strict=True)]
    newest: dict[str, int] = {}
    for index in sorted(range(len(cells)), key=lambda index: started[index]):
        newest |= dict.fromkeys(keys[index], index)
    return [
        next((cells[newest[n]].name for n in own if keys[newest[n]][n] != own[n]), None)
        for own in keys
    ]


def _keys(grid: Grid, cell: Cell, content: Content) -> dict[str, str]:
    """Return name in `Grid.sources` -> key of the text that a run read."""
    known = content or {}
    names = ((name, Path(name).name) for name in grid.source_names(cell))
    return {name: known[source] for name, source in names if source in known}


def _digest(content: Content) -> str | None:
    if not content:
        return None
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:DIGITS]
