"""Scaling efficiency: tokens/s/GPU of a run over that of its reference on the smallest GPU count.

Runs are comparable if they share cluster, model and settings. Two variants share their settings if
their overrides are equal: a strong-scaling variant, which overrides nothing and only splits its
global batch, is comparable with `base`. The reference of a run is a comparable run on the smallest
measured GPU count, with the run's own seed or else the base seed, the first one in the grid.

If all comparable runs were measured on one count above one GPU, they have no reference: nothing
shows how they scale.
"""

from collections.abc import Sequence
from typing import Any

from study.grid import Cell, Grid

REFERENCE_NAME = "gpus-{gpus}/{variant}/seed-{seed}"
"""Name of a reference in a table. Its cluster and model are those of the row."""


def scaling_efficiencies(
    grid: Grid, cells: Sequence[Cell], speeds: Sequence[float | None]
) -> list[dict[str, Any]]:
    """Return the columns scaling_efficiency and efficiency_reference of each cell.

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
    comparable = [other for other in grid if _settings(other) == _settings(cell)]
    seeds = list(dict.fromkeys(other.seed for other in comparable))
    candidates = [other for other in comparable if other.name in measured]
    counts = {other.gpus for other in candidates}
    if not counts or (len(counts) == 1 and min(counts) > 1):
        return None

    def rank(other: Cell) -> tuple[Any, ...]:
        other_seed = (other.seed != cell.seed, seeds.index(other.seed))
        return other.gpus, *other_seed, other.variant != cell.variant

    return min(candidates, key=rank)


def _settings(cell: Cell) -> tuple[Any, ...]:
    return cell.cluster, cell.model, cell.overrides
