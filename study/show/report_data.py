"""The numbers that the report's charts draw, as JSON: cells, curves, speeds, times, predictions."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from study.estimate.backtest import ScoredPrediction
from study.estimate.calibration import LeftOut
from study.grid import Cell, Grid
from study.measure.logs import Run
from study.measure.throughput_row import ThroughputRow
from study.show.curves import thinned
from trainer.flops import flops_per_token

PARTS = {
    "start-up": "From process start to the end of the first step, without compilation.",
    "compile": "Compiling the model's blocks before the first step.",
    "compute": "Optimizer steps after the first one, without waiting for data.",
    "data": "Waiting for data.",
    "save": "Time that training waited for checkpoints.",
    "evaluate": "Evaluating on held-out text.",
    "other": "The rest of the run: shutting down, and what a killed attempt did not record.",
}
"""Part of a run's time -> what it holds."""

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

LABELS = ("cluster", "model", "gpus", "variant", "seed")


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
    curves, times = [], []
    for cell, run in runs:
        curve = _curve(cell, run)
        if curve is not None:
            curves.append({"cell": places[cell.name], **curve})
        parts = time_by_part(run)
        if parts is not None:
            times.append({"cell": places[cell.name], "parts": [_round(parts[p]) for p in PARTS]})
    return {
        "cells": [_cell(cell) for cell in grid],
        "curves": curves,
        "speeds": [_speed(places[cell.name], row) for cell, row in rows],
        "times": times,
        "parts": list(PARTS),
        "predictions": list(predictions),
        "measures": {
            name: {"label": label, "better": better}
            for name, (label, better) in MEASURES.items()
            if any(getattr(row, name) is not None for _, row in rows)
        },
    }


def backtest_points(backtest: Sequence[ScoredPrediction]) -> list[dict[str, Any]]:
    """Return the predictions made before the runs, in ms a step."""
    return [
        {
            "label": item.cell,
            "predicted": [_round(v) for v in (item.step_ms_low, item.step_ms, item.step_ms_high)],
            "measured": _round(item.step_ms_measured),
        }
        for item in backtest
    ]


def left_out_points(left_out: Sequence[LeftOut]) -> list[dict[str, Any]]:
    """Return the predictions of measured configurations from the others, in ms a step."""
    points = []
    for item in left_out:
        ends = (item.predicted.low, item.predicted.middle, item.predicted.high)
        points.append(
            {
                "label": item.cell.name,
                "predicted": [_round(1e3 * end) for end in ends],
                "measured": _round(1e3 * item.measured_s),
            }
        )
    return points


def time_by_part(run: Run) -> dict[str, float] | None:
    """Return part of `PARTS` -> s; None if no attempt got through its first step."""
    attempts = run.summary.attempts
    startups = [item.startup_s for item in attempts if item.startup_s is not None]
    wall_s = run.wall_s
    if not startups or wall_s is None:
        return None
    compile_s = math.fsum(item.startup.get("compile_s") or 0.0 for item in attempts)
    columns = {
        name: np.nan_to_num(np.asarray(run.records.column(name), dtype=float))
        for name in ("step_s", "interval_steps", "data_s", "checkpoint_s", "eval_s", "attempt")
    }
    # The first interval of an attempt is its first step, which belongs to the start-up.
    later = np.ones(len(run.records), bool)
    later[np.unique(columns["attempt"], return_index=True)[1]] = False
    steps_s = float((columns["step_s"] * columns["interval_steps"])[later].sum())
    data_s = min(steps_s, float(columns["data_s"][later].sum()))
    parts = {
        "start-up": math.fsum(startups) - compile_s,
        "compile": compile_s,
        "compute": steps_s - data_s,
        "data": data_s,
        "save": float(columns["checkpoint_s"].sum()),
        "evaluate": float(columns["eval_s"].sum()),
    }
    return {**parts, "other": max(0.0, wall_s - math.fsum(parts.values()))}


def _cell(cell: Cell) -> dict[str, Any]:
    data = cell.run.data
    flops = flops_per_token(cell.run.model, data.tokenizer.vocab_size, data.seq_len)
    labels = {name: getattr(cell, name) for name in LABELS}
    return labels | {
        "params": cell.params,
        "tokens": cell.tokens_per_step,
        "flops": float(f"{flops * cell.tokens_per_step:.6g}"),
    }


def _curve(cell: Cell, run: Run) -> dict[str, Any] | None:
    """Return the losses of a run, thinned without losing spikes; None if none is finite."""
    steps, times, losses = (
        np.asarray(run.records.column(name), dtype=float) for name in ("step", "elapsed_s", "loss")
    )
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


def _speed(place: int, row: ThroughputRow) -> dict[str, Any]:
    return {"cell": place} | {name: _round(getattr(row, name)) for name in MEASURES}


def _round(value: float | None, digits: int = 5) -> float | None:
    """Return a number with so many significant digits; None if it is not a finite one."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")
