"""Names of what differs between cells of one cluster, model and GPU count: the variant and, in a
study with other trainers than ours, the trainer."""

from collections.abc import Collection, Iterable

from study.grid import Cell
from study.trainers import DEFAULT_TRAINER


def names_trainers(cells: Iterable[Cell]) -> bool:
    """Return whether any cell has another trainer than ours; then each is called by its name."""
    return any(cell.trainer != DEFAULT_TRAINER for cell in cells)


def name_kind(cell: Cell, with_trainer: bool) -> str:
    """Return a cell's variant; `with_trainer`, its trainer and variant: `ours`, `litgpt, decay`."""
    if not with_trainer:
        return cell.variant
    parts = [cell.trainer, *([] if cell.plain_variant == "base" else [cell.plain_variant])]
    return ", ".join(parts)


def kinds_heading(cells: Collection[Cell], plural: bool = False) -> str:
    """Return what the kinds of some cells are called: `Variant`, `Trainer`, or both."""
    s = "s" if plural else ""
    if not names_trainers(cells):
        return f"Variant{s}"
    only_trainers = all(cell.plain_variant == "base" for cell in cells)
    return f"Trainer{s}" if only_trainers else f"Trainer{s} and variant{s}"
