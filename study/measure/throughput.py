"""The throughput table: one row for each run, from its folder and its cell alone.

Steady state leaves out the first interval of every attempt (start-up, compilation), attempts whose
settings differ from the last one's and, of another trainer, intervals with a pause whose length its
log does not tell. Each remaining step counts with the mean of its interval; the table has the
median and the 90th percentile over the steps.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.grid import Cell, Grid
from study.measure.efficiency import scaling_efficiencies
from study.measure.measurement import step_mean
from study.measure.records import begins_attempt
from study.measure.run_files import Run, each_run
from study.measure.texts import text_columns
from study.measure.throughput_row import ThroughputRow
from study.roofline import cell_roofline
from trainer.flops import flops_per_token, utilisation
from trainer.records import RunSummary, finite


def throughput_rows(grid: Grid, left_out: dict[str, str] | None = None) -> list[ThroughputRow]:
    """Return one row for each cell that was run with its current settings, in the grid's order.

    Of others, name of the cell -> why there is none is in `left_out`, see `each_run`. Raises
    ConfigError if a run's files are malformed, or if its parameter count differs from the study's.
    """
    cells, rows, contents = [], [], []
    for cell, run in each_run(grid, left_out):
        cells.append(cell)
        rows.append(_row(cell, run))
        contents.append(run.summary.content)
    efficiencies = scaling_efficiencies(grid, cells, rows)
    texts = text_columns(grid, cells, rows, contents)
    columns = (first | second for first, second in zip(efficiencies, texts, strict=True))
    return [replace(row, **more) for row, more in zip(rows, columns, strict=True)]


def is_steady(run: Run) -> NDArray[np.bool_]:
    """Return which intervals are in steady state, as defined at the top of this file."""
    fingerprint = run.summary.fingerprint
    alike = [item.attempt for item in run.summary.attempts if item.fingerprint == fingerprint]
    attempts, paused = (run.records.column(name) for name in ("attempt", "paused"))
    return np.isin(attempts, alike) & ~begins_attempt(attempts) & (paused != 1)


def step_quantiles(
    times_s: NDArray[np.float64], steps: NDArray[np.int64], quantiles: Sequence[float]
) -> list[float | None]:
    """Return quantiles of the step time, s; None if there is no interval.

    `times_s` and `steps`, of shape (intervals,): mean step time and number of steps of each. An
    interval counts once for each of its steps; quantiles between two steps are interpolated.
    """
    if not len(steps):
        return [None for _ in quantiles]
    order = np.argsort(times_s, kind="stable")
    ends = np.cumsum(steps[order])
    ranks = np.asarray(quantiles) * float(ends[-1] - 1)
    before = np.floor(ranks)
    low, high = (
        times_s[order[np.searchsorted(ends, rank, side="right")]]
        for rank in (before, np.ceil(ranks))
    )
    return list((low + (high - low) * (ranks - before)).tolist())


def mean_load(loads: NDArray[np.float64], seconds: NDArray[np.float64]) -> float | None:
    """Return the mean number of cores used by other processes; None if it was not recorded.

    `loads` and `seconds`, of shape (intervals,): the load and the duration of each.
    """
    known = ~np.isnan(loads)
    total_s = float(seconds[known].sum())
    return float(loads[known] @ seconds[known]) / total_s if total_s else None


def _row(cell: Cell, run: Run) -> ThroughputRow:
    """Return a row without the columns that depend on others: of its efficiency and its text."""
    summary, records, choices = run.summary, run.records, run.summary.choices
    cell = cell.on_nodes(summary.nodes or cell.nodes)
    return ThroughputRow(
        **cell.labels,
        gpu_name=summary.gpu_name,
        params=cell.params,
        nodes=cell.nodes,
        seq_len=cell.run.data.seq_len,
        batch_size_per_gpu=cell.run.data.batch_size,
        grad_acc_steps=cell.run.grad_acc_steps,
        tokens_per_step=cell.tokens_per_step,
        steps=cell.run.steps,
        **_steady_state(cell, run),
        peak_memory_gib=summary.peak_memory_gib,
        startup_s=_first_startup_s(summary),
        wall_s=run.wall_s,
        loss_first=finite(records[0].loss) if records else None,
        loss_last=finite(records[-1].loss) if records else None,
        status=summary.status,
        torch_version=summary.versions.torch,
        commit=summary.commit,
        val_loss=summary.loss_validation,
        attempts=summary.attempts[-1].attempt,
        measured_with=summary.trainer_version,
        outcome=summary.outcome,
        started=summary.attempts[-1].start,
        fingerprint=summary.fingerprint,
        machine_cores=summary.machine_cores,
        device=summary.device,
        threads=choices.threads,
        model_dtype=choices.model_dtype,
        compiled=choices.compiled,
        attention=choices.attention,
        speed_key=cell.speed_key,
        first_step=summary.attempts[0].first_step,
        trainer=cell.trainer,
        plain_variant=cell.plain_variant,
        began_again=None if cell.trainer_config.resumes else _began_again(summary),
        steps_done=summary.steps_done,
    )


def _steady_state(cell: Cell, run: Run) -> dict[str, Any]:
    """Return the columns about steps in steady state: their times, and what follows from them."""
    steady = is_steady(run)
    times_s, steps, loads = (
        run.records.column(name)[steady] for name in ("step_s", "interval_steps", "machine_load")
    )
    p10, p50, p90 = step_quantiles(times_s, steps, (0.1, 0.5, 0.9))
    mean, error = step_mean(times_s, steps)
    return {
        "steady_steps": int(steps.sum()),
        "steady_intervals": len(steps),
        "step_ms_p10": _to_ms(p10),
        "step_ms_p50": _to_ms(p50),
        "step_ms_p90": _to_ms(p90),
        "step_ms_mean": _to_ms(mean),
        "step_ms_mean_error": _to_ms(error),
        "step_spread": (p90 - p10) / p50 if p10 and p50 and p90 else None,
        "machine_load": mean_load(loads, times_s * steps),
        **(_speed(cell, p50, run.summary) if p50 else {}),
    }


def _began_again(summary: RunSummary) -> bool:
    """Return whether an attempt after the first one began at the first step, too."""
    first, *others = (item for item in summary.attempts if item.fingerprint == summary.fingerprint)
    return any(item.first_step == first.first_step for item in others)


def _first_startup_s(summary: RunSummary) -> float | None:
    """Return the start-up of the first attempt that starts as an uninterrupted run does, s.

    One that was killed while it started has none; the next begins at the same step. One with other
    settings, such as another GPU count or without compilation, does not count.
    """
    first = summary.attempts[0].first_step
    alike = (
        item.startup_s
        for item in summary.attempts
        if item.first_step == first and item.fingerprint == summary.fingerprint
    )
    return next((startup_s for startup_s in alike if startup_s is not None), None)


def _to_ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _speed(cell: Cell, step_s: float, summary: RunSummary) -> dict[str, Any]:
    """Return the columns that follow from the step time, the shape and the run's choices."""
    context = summary.attention_context
    tokens_per_s = cell.tokens_per_step / step_s
    per_gpu = tokens_per_s / cell.gpus
    model, data = cell.run.model, cell.run.data
    is_known = cell.cluster_config.has_gpu(summary.gpu_name)
    peak = cell.cluster_config.peak_tflops if is_known else None
    roofline = cell_roofline(cell, context, summary.choices.model_dtype) if is_known else None
    flops, causal = (
        flops_per_token(
            model, data.tokenizer.vocab_size, data.seq_len, context=context, causal=causal
        )
        for causal in (False, True)
    )
    return {
        "tokens_per_s": tokens_per_s,
        "tokens_per_s_per_gpu": per_gpu,
        "tflops_per_gpu": per_gpu * flops / 1e12,
        "mfu": utilisation(per_gpu, flops, peak),
        "mfu_causal": utilisation(per_gpu, causal, peak),
        "roofline_fraction": None if roofline is None else per_gpu / roofline.tokens_per_s,
    }
