"""The throughput table: one row for each run, from its folder and its cell alone.

Steady state leaves out the first interval of every attempt (start-up, compilation), attempts whose
settings differ from the last one's and, of another trainer, intervals with a pause whose length its
log does not tell. Each remaining step counts with the mean of its interval;
the table has the median and the 90th percentile over the steps.
"""

import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from study import markdown
from study.files import write_file
from study.grid import Cell, Grid
from study.measure.efficiency import scaling_efficiencies
from study.measure.flags import footnotes
from study.measure.logs import Run, each_run
from study.measure.measurement import step_mean
from study.measure.records import Records
from study.measure.throughput_row import ThroughputRow, read_rows, write_rows
from study.roofline import cell_roofline
from study.trainers import DEFAULT_TRAINER
from trainer.flops import flops_per_token, utilisation
from trainer.records import RunSummary, finite

READABLE_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "cluster": ("Cluster", str),
    "gpu_name": ("GPU", lambda value: value.removeprefix("NVIDIA ")),
    "model": ("Model", str),
    "params": ("Params (M)", lambda value: f"{value / 1e6:.3g}"),
    "gpus": ("GPUs", str),
    "trainer": ("Trainer", str),
    "variant": ("Variant", str),
    "seed": ("Seed", str),
    "tokens_per_step": ("Tokens/step", "{:,}".format),
    "step_ms_p50": ("Step p50 (ms)", "{:.4g}".format),
    "step_ms_p90": ("Step p90 (ms)", "{:.4g}".format),
    "tokens_per_s": ("Tokens/s", "{:,.0f}".format),
    "tokens_per_s_per_gpu": ("Tokens/s/GPU", "{:,.0f}".format),
    "tflops_per_gpu": ("TFLOP/s/GPU", "{:.3g}".format),
    "mfu": ("MFU (%)", lambda value: f"{100 * value:.1f}"),
    "roofline_fraction": ("Of roofline (%)", lambda value: f"{100 * value:.1f}"),
    "scaling_efficiency": ("Scaling eff. (%)", lambda value: f"{100 * value:.1f}"),
    "peak_memory_gib": ("Memory (GiB)", "{:.3g}".format),
    "startup_s": ("Start-up (s)", "{:.3g}".format),
    "wall_s": ("Wall (s)", "{:,.0f}".format),
    "loss_last": ("Loss", "{:.3f}".format),
    "val_loss": ("Val. loss", "{:.3f}".format),
    "status": ("Status", str),
}
"""Column -> heading with unit, and format, in tables for people."""


def throughput_rows(grid: Grid) -> list[ThroughputRow]:
    """Return one row for each cell that was run with its current settings, in the grid's order.

    Raises ConfigError if a run's files are malformed, or if its parameter count differs from the
    study's.
    """
    cells, rows = [], []
    for cell, run in each_run(grid):
        cells.append(cell)
        rows.append(_row(cell, run))
    speeds = [row.tokens_per_s_per_gpu for row in rows]
    efficiencies = scaling_efficiencies(grid, cells, speeds)
    return [replace(row, **columns) for row, columns in zip(rows, efficiencies, strict=True)]


def to_frame(rows: Sequence[ThroughputRow]) -> pd.DataFrame:
    """Return rows as a data frame, a column for each field; unknown values are missing."""
    hints = typing.get_type_hints(ThroughputRow)
    kinds = {name: (typing.get_args(hint) or (hint,))[0] for name, hint in hints.items()}
    dtypes = {name: DTYPES.get(kind, "string") for name, kind in kinds.items()}
    return pd.DataFrame([vars(row) for row in rows], columns=list(dtypes)).astype(dtypes)


DTYPES = {int: "Int64", float: "float64", bool: "boolean"}
"""Type of a field -> nullable pandas dtype; any other type is `string`."""


def steady_records(run: Run) -> Records:
    """Return the intervals in steady state, as defined at the top of this file."""
    fingerprint = run.summary.fingerprint
    alike = {item.attempt for item in run.summary.attempts if item.fingerprint == fingerprint}
    started: set[int] = set()
    steady = []
    attempts, paused = (run.records.column(name) for name in ("attempt", "paused"))
    for attempt, is_paused in zip(attempts, paused, strict=True):
        steady.append(attempt in started and is_paused != 1)
        if attempt in alike:
            started.add(attempt)
    return run.records.where(steady)


def step_quantiles(records: Records, quantiles: Sequence[float]) -> list[float | None]:
    """Return quantiles of the step time, s; None if there is no record.

    Each interval counts once for each of its steps; quantiles between two steps are interpolated.
    """
    if not records:
        return [None for _ in quantiles]
    times = np.asarray(records.column("step_s"))
    order = np.argsort(times, kind="stable")
    ends = np.cumsum(np.asarray(records.column("interval_steps"))[order])
    ranks = np.asarray(quantiles) * float(ends[-1] - 1)
    before = np.floor(ranks)
    low, high = (
        times[order[np.searchsorted(ends, rank, side="right")]] for rank in (before, np.ceil(ranks))
    )
    return list((low + (high - low) * (ranks - before)).tolist())


def mean_load(records: Records) -> float | None:
    """Return the mean number of cores used by other processes; None if it was not recorded."""
    loads = np.asarray(records.column("machine_load"))
    known = ~np.isnan(loads)
    steps, times = (np.asarray(records.column(name)) for name in ("interval_steps", "step_s"))
    seconds = (steps * times)[known]
    total_s = float(seconds.sum())
    return float(loads[known] @ seconds) / total_s if total_s else None


def _row(cell: Cell, run: Run) -> ThroughputRow:
    """Return a row without the scaling-efficiency columns, which depend on the other rows."""
    summary, records, choices = run.summary, run.records, run.summary.choices
    steady = steady_records(run)
    p10, p50, p90 = step_quantiles(steady, (0.1, 0.5, 0.9))
    mean, error = step_mean(
        list(zip(steady.column("step_s"), steady.column("interval_steps"), strict=True))
    )
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
        steady_steps=sum(steady.column("interval_steps")),
        step_ms_p50=_scaled(p50, 1e3),
        step_ms_p90=_scaled(p90, 1e3),
        step_ms_p10=_scaled(p10, 1e3),
        **(_speed(cell, p50, summary) if p50 else {}),
        peak_memory_gib=summary.peak_memory_gib,
        # The first attempt starts as an uninterrupted run does.
        startup_s=summary.attempts[0].startup_s,
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
        step_spread=(p90 - p10) / p50 if p10 and p50 and p90 else None,
        machine_load=mean_load(steady),
        machine_cores=summary.machine_cores,
        device=summary.device,
        threads=choices.threads,
        model_dtype=choices.model_dtype,
        compiled=choices.compiled,
        attention=choices.attention,
        speed_key=cell.speed_key,
        first_step=summary.attempts[0].first_step,
        step_ms_mean=_scaled(mean, 1e3),
        step_ms_mean_error=_scaled(error, 1e3),
        trainer=cell.trainer,
        plain_variant=cell.plain_variant,
        began_again=None if cell.trainer_config.resumes else _began_again(summary),
    )


def _began_again(summary: RunSummary) -> bool:
    """Return whether an attempt after the first one began at the first step, too."""
    first, *others = (item for item in summary.attempts if item.fingerprint == summary.fingerprint)
    return any(item.first_step == first.first_step for item in others)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _speed(cell: Cell, step_s: float, summary: RunSummary) -> dict[str, Any]:
    """Return the columns that follow from the step time, the shape and the run's choices."""
    context = summary.attention_context
    tokens_per_s = cell.tokens_per_step / step_s
    per_gpu = tokens_per_s / cell.gpus
    model, data = cell.run.model, cell.run.data
    roofline = cell_roofline(cell, context, summary.choices.model_dtype)
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
        "mfu": utilisation(per_gpu, flops, cell.cluster_config.peak_tflops),
        "mfu_causal": utilisation(per_gpu, causal, cell.cluster_config.peak_tflops),
        "roofline_fraction": None if roofline is None else per_gpu / roofline.tokens_per_s,
    }


def other_versions(table: pd.DataFrame) -> list[int]:
    """Return the positions of rows measured with a different trainer than the newest run's."""
    if table.empty:
        return []
    newest: dict[str, Any] = {}
    by_start = np.argsort(table["started"].to_numpy(dtype=str), kind="stable")
    versions, trainers = table["measured_with"].tolist(), table["trainer"].tolist()
    for index in by_start.tolist():
        newest[trainers[index]] = versions[index]
    return [
        i
        for i, (version, trainer) in enumerate(zip(versions, trainers, strict=True))
        if pd.notna(version) and not is_equal(version, newest[trainer])
    ]


def is_equal(version: Any, other: Any) -> bool:
    """Return whether two versions are the same; an unknown one is none."""
    return bool(pd.notna(other) and version == other)


IMPOSSIBLE = "†"
"""Marks a fraction above 1 of the GPU's stated rates."""

OF_THE_GPU = ("mfu", "roofline_fraction")
"""Columns that are fractions of the GPU's stated rates."""


def note_on_impossible(table: pd.DataFrame) -> str | None:
    """Return the explanation of `IMPOSSIBLE` in a table; None if nothing is marked."""
    above = (table[list(OF_THE_GPU)] > 1).any(axis="columns")
    if not above.any():
        return None
    names = ", ".join(dict.fromkeys(table.loc[above, "cluster"]))
    return (
        f"{IMPOSSIBLE} above 100%, which no GPU reaches: peak_tflops or rates of {names} in "
        "clusters.yaml do not match the GPU used. At long sequences MFU alone may exceed 100%, "
        "because it counts attention without the causal mask: see mfu_causal in throughput.csv."
    )


def readable_throughput(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows for people; a column without any value is left out.

    A star marks rows measured with a different version of the trainer than the newest run, a dagger
    fractions that no GPU can reach; numbers refer to `notes`.
    """
    columns = [name for name in READABLE_COLUMNS if table.empty or table[name].notna().any()]
    if table["trainer"].eq(DEFAULT_TRAINER).all():
        columns.remove("trainer")
    # A diverged run is completed too, but its divergence matters more to a reader.
    diverged = table["outcome"].eq("diverged").fillna(False)
    shown = table.assign(status=table["status"].mask(diverged, "diverged"))
    plain = plain_rows(shown)
    rows = [
        [("" if row[name] is None else READABLE_COLUMNS[name][1](row[name])) for name in columns]
        for row in ({**row, "variant": row["plain_variant"] or row["variant"]} for row in plain)
    ]
    for index in other_versions(table):
        rows[index][columns.index("model")] += "*"
    for name in set(OF_THE_GPU).intersection(columns):
        for index in np.flatnonzero(table[name] > 1).tolist():
            rows[index][columns.index(name)] += IMPOSSIBLE
    for row, marks in zip(rows, footnotes(plain)[0], strict=True):
        row[columns.index("model")] += marks
    return [READABLE_COLUMNS[name][0] for name in columns], rows


def notes(table: pd.DataFrame) -> list[str]:
    """Return the footnotes that the marks of `readable_throughput` refer to."""
    impossible = note_on_impossible(table)
    return [*([impossible] if impossible else []), *footnotes(plain_rows(table))[1]]


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows with None for each empty cell."""
    known = table.astype(object).where(table.notna(), None)
    columns = {str(name): column.tolist() for name, column in known.items()}
    lines = zip(*columns.values(), strict=True)
    return [dict(zip(columns, values, strict=True)) for values in lines]


def to_markdown(table: pd.DataFrame) -> str:
    """Return the table for people, with notes on missing values and on its marks."""
    headings, rows = readable_throughput(table)
    if not rows:
        return "No run has been measured yet.\n"
    text = markdown_table(headings, rows)
    unrated = table.loc[table["tflops_per_gpu"].notna() & table["mfu"].isna(), "cluster"]
    if len(unrated):
        names = ", ".join(dict.fromkeys(unrated))
        text += f"\nnote: no MFU for {names}, whose peak_tflops is not in clusters.yaml.\n"
    if other_versions(table):
        text += (
            "\nnote: \\* measured with a different version of the trainer than the newest run.\n"
        )
    return text + "".join(f"\nnote: {note}.\n" for note in notes(table))


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table; columns of numbers are right-aligned."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(headings)
    align = ["right" if is_numeric(column) else "left" for column in columns]
    return markdown.markdown_table(headings, rows, align) + "\n"


def is_numeric(column: Iterable[str]) -> bool:
    """Return whether every cell of a column is empty or a number, with or without a mark."""
    return all(
        cell.rstrip(IMPOSSIBLE).replace(",", "").replace(".", "", 1).lstrip("+-").isdigit()
        or not cell
        for cell in column
    )


def write_table(rows: Sequence[ThroughputRow], csv_path: Path) -> None:
    """Write the table as CSV, and next to it as Markdown."""
    write_rows(rows, csv_path)
    write_file(csv_path.with_suffix(".md"), to_markdown(to_frame(rows)))


def read_table(csv_path: Path) -> pd.DataFrame:
    """Return a throughput.csv as a data frame. Raises ConfigError."""
    return to_frame(read_rows(csv_path))
