"""The throughput table as files and for people: CSV, data frame and Markdown."""

import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from study import markdown
from study.files import write_csv_and_markdown
from study.formats import format_number
from study.measure.doubts import footnotes
from study.measure.summaries import describe_reasons
from study.measure.throughput_row import ThroughputRow, read_rows
from study.trainers import DEFAULT_TRAINER

READABLE_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "cluster": ("Cluster", str),
    "gpu_name": ("GPU", lambda value: value.removeprefix("NVIDIA ")),
    "model": ("Model", str),
    "params": ("Params (M)", lambda value: format_number(value / 1e6)),
    "gpus": ("GPUs", str),
    "trainer": ("Trainer", str),
    "variant": ("Variant", str),
    "seed": ("Seed", str),
    "tokens_per_step": ("Tokens/step", "{:,}".format),
    "step_ms_p50": ("Step p50 (ms)", lambda value: format_number(value, 4)),
    "step_ms_p90": ("Step p90 (ms)", lambda value: format_number(value, 4)),
    "tokens_per_s": ("Tokens/s", "{:,.0f}".format),
    "tokens_per_s_per_gpu": ("Tokens/s/GPU", "{:,.0f}".format),
    "tflops_per_gpu": ("TFLOP/s/GPU", format_number),
    "mfu": ("MFU (%)", lambda value: f"{100 * value:.1f}"),
    "roofline_fraction": ("Of roofline (%)", lambda value: f"{100 * value:.1f}"),
    "scaling_efficiency": ("Scaling eff. (%)", lambda value: f"{100 * value:.1f}"),
    "peak_memory_gib": ("Memory (GiB)", format_number),
    "startup_s": ("Start-up (s)", format_number),
    "wall_s": ("Wall (s)", "{:,.0f}".format),
    "loss_last": ("Loss", "{:.3f}".format),
    "val_loss": ("Val. loss", "{:.3f}".format),
    "status": ("Status", str),
}
"""Column -> heading with unit, and format, in tables for people."""


def to_frame(rows: Sequence[ThroughputRow]) -> pd.DataFrame:
    """Return rows as a data frame, a column for each field; unknown values are missing."""
    hints = typing.get_type_hints(ThroughputRow)
    kinds = {name: (typing.get_args(hint) or (hint,))[0] for name, hint in hints.items()}
    dtypes = {name: DTYPES.get(kind, "string") for name, kind in kinds.items()}
    return pd.DataFrame([vars(row) for row in rows], columns=list(dtypes)).astype(dtypes)


DTYPES = {int: "Int64", float: "float64", bool: "boolean"}
"""Type of a field -> nullable pandas dtype; any other type is `string`."""


def other_versions(table: pd.DataFrame) -> list[int]:
    """Return the positions of rows measured with another trainer or torch than the newest run's.

    Torch is that of the cluster, as each may have its own.
    """
    older = _unlike_newest(table, "measured_with", ["trainer"])
    return sorted(older | _unlike_newest(table, "torch_version", ["trainer", "cluster"]))


def _unlike_newest(table: pd.DataFrame, column: str, of: list[str]) -> set[int]:
    """Return the positions of rows whose value is not the newest run's that is equal in `of`."""
    values = table[column].tolist()
    groups = list(table[of].itertuples(index=False, name=None))
    newest: dict[tuple[Any, ...], Any] = {}
    for index in np.argsort(table["started"].to_numpy(dtype=str), kind="stable").tolist():
        newest[groups[index]] = values[index]
    return {
        i
        for i, (value, group) in enumerate(zip(values, groups, strict=True))
        if pd.notna(value) and not is_equal(value, newest[group])
    }


def settled(table: pd.DataFrame, keys: pd.Series) -> pd.DataFrame:
    """Return the rows that count among the repeats with their key: that of a run which diverged
    only if all of them did."""
    ended = table["outcome"].ne("diverged").fillna(True)
    return table[ended | ~keys.isin(keys[ended])]


def settled_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that count among the seeds of their configuration; see `settled`."""
    configuration = table["cluster"].str.cat(table[["model", "variant"]], sep="/")
    return settled(table, configuration + "/" + table["gpus"].astype("string"))


def is_equal(version: Any, other: Any) -> bool:
    """Return whether two versions are the same; an unknown one is none."""
    return bool(pd.notna(other) and version == other)


OTHER_VERSIONS = (
    "* measured with a different version of the trainer than the newest run, or of torch than the "
    "newest on its cluster"
)
"""Explains the star of `other_versions`."""

IMPOSSIBLE = "†"
"""Marks a fraction above 1 of the GPU's stated rates."""


def mark_of(fraction: float | None) -> str:
    """Return `IMPOSSIBLE` for a fraction above 1 of the GPU's stated rates; otherwise nothing."""
    return IMPOSSIBLE if fraction is not None and fraction > 1 else ""


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
        "because it counts attention without the causal mask: see mfu_causal in throughput.csv"
    )


def readable_throughput(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows for people; a column without any value is left out.

    A star marks `other_versions`, a dagger fractions that no GPU can reach; numbers refer to
    `notes`.
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
    starred = OTHER_VERSIONS if other_versions(table) else None
    marks = [note for note in (starred, note_on_impossible(table)) if note is not None]
    return [*marks, *footnotes(plain_rows(table))[1]]


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows with None for each empty cell."""
    known = table.astype(object).where(table.notna(), None)
    columns = {str(name): column.tolist() for name, column in known.items()}
    lines = zip(*columns.values(), strict=True)
    return [dict(zip(columns, values, strict=True)) for values in lines]


def to_markdown(
    table: pd.DataFrame,
    failures: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> str:
    """Return the table for people, with notes on missing values, on its marks, and on cells that it
    lacks.

    `failures`: name of a cell -> why it failed; `left_out`: -> why the table is without its run.
    """
    headings, rows = readable_throughput(table)
    lacking = describe_reasons(failures or {}, "failed")
    lacking += describe_reasons(left_out or {}, "left out")
    if not rows:
        return "No run has been measured yet.\n" + _notes(lacking)
    text = markdown_table(headings, rows)
    unrated = table.loc[table["tflops_per_gpu"].notna() & table["mfu"].isna(), "cluster"]
    if len(unrated):
        names = ", ".join(dict.fromkeys(unrated))
        why = "clusters.yaml has no peak_tflops of the GPU that ran"
        text += f"\nnote: no MFU for {names}: {why}.\n"
    return text + _notes([*notes(table), *lacking])


def _notes(texts: Iterable[str]) -> str:
    # A bare star would begin emphasis.
    escaped = [text.replace("*", r"\*") for text in texts]
    return "".join(f"\nnote: {text}.\n" for text in escaped)


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


def write_table(
    rows: Sequence[ThroughputRow],
    csv_path: Path,
    failures: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> None:
    """Write the table as CSV, and next to it as Markdown, with the cells that it lacks and why."""
    text = to_markdown(to_frame(rows), failures, left_out)
    write_csv_and_markdown(csv_path, rows, ThroughputRow, text)


def read_table(csv_path: Path) -> pd.DataFrame:
    """Return a throughput.csv as a data frame. Raises ConfigError."""
    return to_frame(read_rows(csv_path))
