"""The live view as text: a table on a terminal, lines elsewhere."""

import shutil
import time
from collections import Counter
from typing import TextIO

from tabulate import tabulate

from study.formats import format_known, format_seconds
from study.points import short_names
from study.show.watch import ORDER, Seen, State, Watch

HOME = "\x1b[H\x1b[J"
"""Clears a terminal."""


def follow(watch: Watch, out: TextIO, every_s: float, once: bool = False) -> None:
    """Show a study until all its cells are done; on a terminal as a table that is drawn again.

    Otherwise a line for each cell whose state or note has changed, and the summary after them.
    """
    told: dict[str, tuple[State, str]] = {}
    while True:
        seen = watch.look()
        if out.isatty():
            size = shutil.get_terminal_size()
            text = f"{watch.summary(seen)}\n\n{to_text(seen, max(size.lines - 6, 5))}"
            out.write(f"{HOME}{cut(text, size.columns)}\n")
        elif once:
            out.write(f"{watch.summary(seen)}\n\n{to_text(seen, len(seen))}\n")
        else:
            changed = [item for item in seen if told.get(item.cell.name) != (item.state, item.note)]
            told |= {item.cell.name: (item.state, item.note) for item in changed}
            out.writelines(f"{to_line(item)}\n" for item in changed)
            if changed:
                out.write(f"{watch.summary(seen)}\n")
        out.flush()
        if once or all(item.state in ("done", "diverged") for item in seen):
            return
        time.sleep(every_s)


def cut(text: str, width: int) -> str:
    """Return lines that a terminal of this width does not wrap; the end of a note is left out."""
    lines = text.splitlines()
    return "\n".join(line if len(line) <= width else f"{line[: width - 3]}..." for line in lines)


def to_text(seen: list[Seen], most: int) -> str:
    """Return a table of the cells, those that run first; of those beyond `most`, the states."""
    rows = sorted(seen, key=lambda item: ORDER.index(item.state))
    shown, hidden = rows[:most], Counter(item.state for item in rows[most:])
    headings = ["Cell", "State", "Step", "Loss", "Tokens/s/GPU", "Left", "Note"]
    align = ["left", "left", "right", "right", "right", "right", "left"]
    names = dict(zip(map(id, rows), short_names(item.cell.labels for item in rows), strict=True))
    cells = [[names[id(item)], *_cells(item)[1:]] for item in shown]
    text = tabulate(cells, headings, "simple", disable_numparse=True, colalign=align)
    more = ", ".join(f"{count} {state}" for state, count in hidden.items())
    return text + (f"\nand {more}" if more else "")


def _cells(item: Seen) -> list[str]:
    now, steps = item.progress, f"{item.cell.run.steps:,}"
    done = item.state in ("done", "diverged")
    made = item.steps_done if done else now.step if now else 0
    speed = now.tokens_per_s_per_gpu if now else None
    return [
        item.cell.name,
        item.state,
        steps if item.state == "done" else f"{made:,} of {steps}",
        "" if now is None or now.loss is None else f"{now.loss:.4f}",
        format_known(speed, "{:,.0f}".format),
        "" if item.left_s is None or done else format_seconds(item.left_s),
        item.note,
    ]


def to_line(item: Seen) -> str:
    """Return a cell on one line, for output that is not a terminal."""
    name, state, step, loss, speed, left, note = _cells(item)
    parts = [state, f"step {step}"]
    parts += [f"loss {loss}"] if loss else []
    parts += [f"{speed} tokens/s/GPU"] if speed else []
    parts += [f"{left} left"] if left else []
    parts += [note] if note else []
    return f"{name}: {', '.join(parts)}"
