"""The final loss of each run: what scaling laws and the analyses compare."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from statistics import median

from study.grid import Cell, Grid
from study.measure.logs import each_run

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

    Runs that diverged or have not ended are left out.
    """
    found = []
    for cell, run in each_run(grid):
        losses = [(record.step, record.loss) for record in run.records if isfinite(record.loss)]
        if run.summary.outcome != "trained" or not losses:
            continue
        first = (1 - LAST_SHARE) * losses[-1][0]
        last = median(loss for step, loss in losses if step >= first)
        found.append((cell, FinalLoss(run.summary.loss_validation, last)))
    return found


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
