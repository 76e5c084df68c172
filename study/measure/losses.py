"""The final loss of each run: what scaling laws and the analyses compare."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from study.grid import Cell, Grid
from study.measure.run_files import Run, each_run
from study.measure.texts import find_other_texts

LAST_SHARE = 0.1
"""Last share of the steps, whose median training loss is a run's final one."""

VALIDATION = "validation loss"

TRAINING = "training loss at the end"


@dataclass(frozen=True)
class FinalLoss:
    """The losses of a run that was trained to its end, nats per token."""

    validation: float | None
    """Loss on the held-out text after the last step; None if it was not evaluated."""
    training: float
    """Median training loss of the last tenth of the steps."""


def final_losses(grid: Grid) -> list[tuple[Cell, FinalLoss]]:
    """Return the losses of a study's trained runs, in the grid's order.

    Left out are runs that diverged or have not ended, and, with a message on standard error, those
    that read other text than the newest run with the same sources: their losses do not compare.
    """
    cells, losses, contents, started = [], [], [], []
    for cell, run in each_run(grid):
        cells.append(cell)
        losses.append(_final_loss(run))
        contents.append(run.summary.content)
        started.append(run.summary.attempts[-1].start)
    found = []
    others = find_other_texts(grid, cells, contents, started)
    for cell, loss, other in zip(cells, losses, others, strict=True):
        if loss is not None and other is not None:
            print(f"{cell.folder}: loss left out; its text is not that of {other}", file=sys.stderr)
        elif loss is not None:
            found.append((cell, loss))
    return found


def _final_loss(run: Run) -> FinalLoss | None:
    steps, losses = (run.records.column(name) for name in ("step", "loss"))
    known = np.isfinite(losses)
    if run.summary.outcome != "trained" or not known.any():
        return None
    last = known & (steps > (1 - LAST_SHARE) * steps[known][-1])
    # Another trainer may evaluate only every so many steps.
    is_early = bool(run.evaluations) and run.evaluations[-1].step < steps[-1]
    validation = None if is_early else run.summary.loss_validation
    return FinalLoss(validation, float(np.median(losses[last])))


def choose_loss(
    cells: Iterable[Cell], losses: Mapping[str, FinalLoss]
) -> tuple[dict[str, float], str]:
    """Return name -> loss of the cells that have one, and which loss it is.

    The validation loss if each of them has one, otherwise the training loss of all. `losses` are by
    the cells' names.
    """
    found = {cell.name: losses[cell.name] for cell in cells if cell.name in losses}
    validation = {name: loss.validation for name, loss in found.items()}
    if any(value is None for value in validation.values()):
        return {name: loss.training for name, loss in found.items()}, TRAINING
    return {name: value for name, value in validation.items() if value is not None}, VALIDATION
