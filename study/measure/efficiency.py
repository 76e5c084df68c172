"""Scaling efficiency: tokens/s/GPU of a run over that of its reference on the smallest GPU count.

Runs are comparable if they share cluster, model, trainer and settings. Two variants share their
settings if their overrides are equal: a strong-scaling variant, which overrides nothing and only
splits its global batch, is comparable with `base`. The reference of a run is a comparable run on
the smallest measured GPU count, with the run's own seed or else the base seed, the first one in the
grid.

If all comparable runs were measured on one count above one GPU, they have no reference: nothing
shows how they scale.
"""

import json
from collections.abc import Collection, Mapping, Sequence
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
    settings = {cell.name: _settings(cell) for cell in grid}
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in grid:
        groups.setdefault(settings[cell.name], []).append(cell)
    comparable = {key: _Comparable(group, measured) for key, group in groups.items()}
    columns = []
    for cell in cells:
        row: dict[str, Any] = {"scaling_efficiency": None, "efficiency_reference": None}
        if cell.name in measured:
            reference = comparable[settings[cell.name]].reference_of(cell)
            if reference is not None:
                row["scaling_efficiency"] = measured[cell.name] / measured[reference.name]
                row["efficiency_reference"] = REFERENCE_NAME.format(**reference.labels)
        columns.append(row)
    return columns


class _Comparable:
    """The runs that share cluster, model and settings."""

    def __init__(self, group: Sequence[Cell], measured: Collection[str]) -> None:
        candidates = [cell for cell in group if cell.name in measured]
        counts = {cell.gpus for cell in candidates}
        smallest = min(counts, default=0)
        self._by_seed: dict[int, list[Cell]] = {}
        """Seed -> the measured runs on the smallest count; empty if there is no other count."""
        if len(counts) > 1 or smallest == 1:
            for cell in candidates:
                if cell.gpus == smallest:
                    self._by_seed.setdefault(cell.seed, []).append(cell)
        seeds = dict.fromkeys(cell.seed for cell in group)
        self._base = next((seed for seed in seeds if seed in self._by_seed), None)

    def reference_of(self, cell: Cell) -> Cell | None:
        """Return the run that a cell's speed is compared with; None if there is none."""
        if self._base is None:
            return None
        alike = self._by_seed.get(cell.seed, self._by_seed[self._base])
        return next((other for other in alike if other.variant == cell.variant), alike[0])


def _settings(cell: Cell) -> tuple[Any, ...]:
    settings = json.dumps(_as_floats(cell.overrides), sort_keys=True)
    return cell.cluster, cell.model, cell.trainer, settings


def _as_floats(value: Any) -> Any:
    """Return a value in which equal numbers have the same text: 1 and 1.0."""
    if isinstance(value, Mapping):
        return {key: _as_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_floats(item) for item in value]
    return float(value) if isinstance(value, int) and abs(value) < 2**53 else value
