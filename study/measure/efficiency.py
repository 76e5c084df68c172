"""Scaling efficiency: a run's tokens/s/GPU over that of its reference, a run on the smallest count.

Runs are comparable if they share cluster, model and settings. Two variants share their settings if
their overrides are equal: a strong-scaling variant, which overrides nothing and only splits its
global batch, is comparable with `base`. Among comparable runs the reference is one on the smallest
GPU count that was measured: of the run's own seed, else of the base seed, which is the one that
stands first in the grid.

Runs that were all measured on one count, above one GPU, have no reference: nothing says how they
scale.
"""

from collections.abc import Sequence
from typing import Any

from study.grid import Cell, Grid

REFERENCE_NAME = "gpus-{gpus}/{variant}/seed-{seed}"
"""How a table names a reference, whose cluster and model are the row's own."""


def scaling_efficiencies(
    grid: Grid, cells: Sequence[Cell], speeds: Sequence[float | None]
) -> list[dict[str, Any]]:
    """Return for each cell the columns scaling_efficiency and efficiency_reference.

    `speeds` are the cells' tokens/s/GPU. Both columns are None if a cell has no reference.
    """
    measured = {
        cell.name: speed
        for cell, speed in zip(cells, speeds, strict=True)
        if speed is not None and speed > 0
    }
    columns = []
    for cell in cells:
        reference = _find_reference(grid, cell, measured) if cell.name in measured else None
        row: dict[str, Any] = {"scaling_efficiency": None, "efficiency_reference": None}
        if reference is not None:
            row["scaling_efficiency"] = measured[cell.name] / measured[reference.name]
            row["efficiency_reference"] = REFERENCE_NAME.format(**reference.labels)
        columns.append(row)
    return columns


def _find_reference(grid: Grid, cell: Cell, measured: dict[str, float]) -> Cell | None:
    comparable = [other for other in grid if _settings(grid, other) == _settings(grid, cell)]
    seeds = list(dict.fromkeys(other.seed for other in comparable))
    candidates = [other for other in comparable if other.name in measured]
    counts = {other.gpus for other in candidates}
    if not counts or (len(counts) == 1 and min(counts) > 1):
        return None

    def rank(other: Cell) -> tuple[Any, ...]:
        other_seed = (other.seed != cell.seed, seeds.index(other.seed))
        return other.gpus, *other_seed, other.variant != cell.variant

    return min(candidates, key=rank)


def _settings(grid: Grid, cell: Cell) -> tuple[Any, ...]:
    return cell.cluster, cell.model, grid.study.variants.get(cell.variant, {})
