"""The numbers that the report's charts draw, as JSON: cells, curves, speeds, times, predictions."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from study.estimate.accuracy import Accuracy
from study.grid import Cell, Grid
from study.kinds import names_trainers
from study.measure.run_files import Run
from study.measure.throughput_row import ThroughputRow
from study.measure.time_by_part import PARTS, time_by_part
from study.show.curves import thinned

MEASURES = {
    "tokens_per_s_per_gpu": ("Tokens/s/GPU", "higher"),
    "tokens_per_s": ("Tokens/s", "higher"),
    "mfu": ("MFU (%)", "higher"),
    "scaling_efficiency": ("Scaling efficiency (%)", "higher"),
    "step_ms_p50": ("Step p50 (ms)", "lower"),
    "peak_memory_gib": ("Memory (GiB)", "lower"),
    "startup_s": ("Start-up (s)", "lower"),
    "wall_s": ("Wall (s)", "lower"),
    "loss_last": ("Training loss", "lower"),
    "val_loss": ("Held-out loss", "lower"),
}
"""Column of the throughput table that charts and the pivot table offer -> its label, and which end
is better."""


def chart_data(
    grid: Grid,
    runs: Iterable[tuple[Cell, Run]],
    rows: Sequence[tuple[Cell, ThroughputRow]],
    predictions: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return what the page's script reads; numbers that are not known or not finite are None.

    `runs` are those whose settings are current, `rows` the throughput table.
    """
    places = {cell.name: index for index, cell in enumerate(grid)}
    with_trainer = names_trainers(grid)
    curves, times = [], []
    for cell, run in runs:
        curve = _curve(cell, run)
        if curve is not None:
            curves.append({"cell": places[cell.name], **curve})
        parts = time_by_part(run)
        if parts is not None:
            times.append({"cell": places[cell.name], "parts": [_round(parts[p]) for p in PARTS]})
    return {
        "cells": [_cell(cell, with_trainer) for cell in grid],
        "curves": curves,
        "speeds": _speeds(rows, places),
        "times": times,
        "parts": list(PARTS),
        "predictions": list(predictions),
        "measures": {
            name: {"label": label, "better": better}
            for name, (label, better) in MEASURES.items()
            if any(getattr(row, name) is not None for _, row in rows)
        },
    }


def prediction_points(accuracy: Accuracy) -> list[dict[str, Any]]:
    """Return the predictions made before the runs, and those of measured configurations from the
    others, in ms a step."""
    return [
        {
            "label": item.cell,
            "before": before,
            "predicted": [_round(v) for v in (item.step_ms_low, item.step_ms, item.step_ms_high)],
            "measured": _round(item.step_ms_measured),
            "inside": item.inside,
        }
        for before, items in ((True, accuracy.backtest), (False, accuracy.left_out))
        for item in items
    ]


def _cell(cell: Cell, with_trainer: bool) -> dict[str, Any]:
    trainer = {"trainer": cell.trainer} if with_trainer else {}
    return {
        "cluster": cell.cluster,
        "model": cell.model,
        "gpus": cell.gpus,
        **trainer,
        "variant": cell.plain_variant,
        "seed": cell.seed,
        "params": cell.params,
        "tokens": cell.tokens_per_step,
        "flops": _round(cell.flops_per_step, 6),
    }


def _curve(cell: Cell, run: Run) -> dict[str, Any] | None:
    """Return the losses of a run, thinned without losing spikes; None if none is finite."""
    steps, times, losses = (run.records.column(name) for name in ("step", "elapsed_s", "loss"))
    if not np.isfinite(losses).any():
        return None
    kept = thinned(steps, losses)
    return {
        "step": steps[kept].astype(int).tolist(),
        "time": [_round(value) for value in times[kept].tolist()],
        "loss": [_round(value, 4) for value in losses[kept].tolist()],
        "evals": [
            [item.step, _round(item.elapsed_s), _round(item.loss)] for item in run.evaluations
        ],
        "diverged": run.summary.outcome == "diverged",
    }


def _speeds(
    rows: Sequence[tuple[Cell, ThroughputRow]], places: dict[str, int]
) -> list[dict[str, Any]]:
    """Return the measures of each run, with its cell, whether it diverged, and `alike`, if there is
    one: a cell of another variant, of which it is a repeat as far as its speed goes."""
    first: dict[tuple[str, str, str], Cell] = {}
    for cell, row in sorted(rows, key=lambda item: item[0].plain_variant != "base"):
        first.setdefault((cell.cluster, cell.trainer, row.speed_key or cell.name), cell)
    found = []
    for cell, row in rows:
        alike = first[cell.cluster, cell.trainer, row.speed_key or cell.name]
        other = {"alike": places[alike.name]} if alike.variant != cell.variant else {}
        values = {name: _round(getattr(row, name)) for name in MEASURES}
        ended = {"diverged": True} if row.outcome == "diverged" else {}
        found.append({"cell": places[cell.name], **other, **ended, **values})
    return found


def _round(value: float | None, digits: int = 5) -> float | None:
    """Return a number with so many significant digits; None if it is not a finite one."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")
