"""Scaling efficiency: tokens/s/GPU of a run over that of its reference on the smallest GPU count.

Runs are comparable if they share cluster, model, trainer and settings. Two variants share their
settings if their overrides are equal: a strong-scaling variant, which overrides nothing and only
splits its global batch, is comparable with `base`. The reference of a run is a comparable run on
the smallest measured GPU count: one on the same GPU (or CPU) model before others, and of these the
one with the run's own seed, or else the first seed of the grid that is there.

A run whose reference ran on another GPU model has no efficiency: the ratio would be that of the two
models, such as A100 of 40 and of 80 GB in one partition. If all comparable runs were measured on
one count above one GPU, they have no reference: nothing shows how they scale.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from study.grid import Cell, Grid
from study.measure.throughput_row import ThroughputRow
from study.sequences import group_by

REFERENCE_NAME = "gpus-{gpus}/{variant}/seed-{seed}"
"""Name of a reference in a table. Its cluster and model are those of the row."""


def scaling_efficiencies(
    grid: Grid, cells: Sequence[Cell], rows: Sequence[ThroughputRow]
) -> list[dict[str, Any]]:
    """Return the columns scaling_efficiency and efficiency_reference of each cell.

    `rows` are the cells' measurements. Both columns are None if a cell has no reference; only the
    efficiency is if that ran on another GPU model.
    """
    measured = {
        cell.name: (speed, row.gpu_name)
        for cell, row in zip(cells, rows, strict=True)
        if (speed := row.tokens_per_s_per_gpu) is not None
    }
    settings = {cell.name: _settings(cell) for cell in grid}
    groups = group_by(grid, lambda cell: settings[cell.name])
    gpus = {name: gpu for name, (_, gpu) in measured.items()}
    comparable = {key: _Comparable(group, gpus) for key, group in groups.items()}
    columns = []
    for cell in cells:
        row: dict[str, Any] = {"scaling_efficiency": None, "efficiency_reference": None}
        if cell.name in measured:
            reference = comparable[settings[cell.name]].reference_of(cell)
            if reference is not None:
                (speed, gpu), (first, its_gpu) = measured[cell.name], measured[reference.name]
                if gpu == its_gpu or gpu is None or its_gpu is None:
                    row["scaling_efficiency"] = speed / first
                row["efficiency_reference"] = REFERENCE_NAME.format(**reference.labels)
        columns.append(row)
    return columns


class _Comparable:
    """The runs that share cluster, model and settings."""

    def __init__(self, group: Sequence[Cell], gpus: Mapping[str, str | None]) -> None:
        """`gpus`: name of a measured cell -> GPU model, None if that is not known."""
        self._gpus = gpus
        candidates = [cell for cell in group if cell.name in gpus]
        counts = {cell.gpus for cell in candidates}
        smallest = min(counts, default=0)
        self._by_gpu: dict[str | None, dict[int, list[Cell]]] = {}
        """GPU model, and None for any -> seed -> the measured runs on the smallest count; empty if
        there is no other count."""
        if len(counts) > 1 or smallest == 1:
            for cell in candidates:
                if cell.gpus == smallest:
                    for gpu in {None, gpus[cell.name]}:
                        by_seed = self._by_gpu.setdefault(gpu, {})
                        by_seed.setdefault(cell.seed, []).append(cell)
        self._seeds = list(dict.fromkeys(cell.seed for cell in group))

    def reference_of(self, cell: Cell) -> Cell | None:
        """Return the run that a cell's speed is compared with; None if there is none."""
        if not self._by_gpu:
            return None
        by_seed = self._by_gpu.get(self._gpus[cell.name], self._by_gpu[None])
        base = next(seed for seed in self._seeds if seed in by_seed)
        alike = by_seed.get(cell.seed, by_seed[base])
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
