"""Tables of the report: headings with their definitions, and cells that a page can sort."""

import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.estimate.calibration import Check
from study.estimate.estimate import Estimate
from study.estimate.scored import ScoredPrediction
from study.measure.throughput_row import ThroughputRow
from study.measure.throughput_table import READABLE_COLUMNS, is_numeric


@dataclass(frozen=True)
class Column:
    """A column of a table on the page."""

    heading: str
    definition: str
    """What it holds; empty if the heading says all."""
    is_number: bool


@dataclass(frozen=True)
class Table:
    """A table for the page."""

    title: str
    """Its caption, for people who do not see where it stands."""
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


def make_table(
    title: str,
    readable: tuple[Sequence[str], Sequence[Sequence[str]]],
    definitions: Mapping[str, str] | None = None,
) -> Table:
    """Return a table from headings and rows for people."""
    headings, rows = readable
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(headings)
    known = definitions or {}
    columns = [
        Column(heading, known.get(heading, ""), is_numeric(column))
        for heading, column in zip(headings, cells, strict=True)
    ]
    return Table(title, columns, rows)


def field_docs(cls: type[Any]) -> dict[str, str]:
    """Return field -> docstring below it as plain text, of a class at the top level of a module."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            docs[field.target.id] = " ".join(str(text.value.value).replace("`", "").split())
    return docs


def _definitions(cls: type[Any], fields: Mapping[str, str]) -> dict[str, str]:
    docs = field_docs(cls)
    return {heading: docs[field] for heading, field in fields.items()}


def throughput_definitions() -> dict[str, str]:
    """Return heading -> definition of the throughput table."""
    fields = {heading: name for name, (heading, _) in READABLE_COLUMNS.items()}
    docs = field_docs(ThroughputRow)
    return {heading: docs.get(name, "") for heading, name in fields.items()}


def estimate_definitions(horizon: str) -> dict[str, str]:
    """Return heading -> definition of the time table of a horizon."""
    run = _definitions(
        ThroughputRow,
        {
            "Model Size": "model",
            "Params": "params",
            "GPUs": "gpus",
            "Tokens/Step": "tokens_per_step",
        },
    )
    fields = {f"{horizon.title()} Time": "seconds", "Tokens": "tokens"}
    fields |= {"GPU-hours": "gpu_hours", "Cost": "cost", "Energy (kWh)": "energy_kwh"}
    interval = "80% prediction interval: eight runs in ten should end inside it."
    notes = "How the time was derived, and what makes it uncertain."
    return run | _definitions(Estimate, fields) | {"Interval": interval, "Notes": notes}


def check_definitions() -> dict[str, str]:
    """Return heading -> definition of the cross-validation."""
    fields = {"Left out": "left_out", "Cells": "cells", "Median error (%)": "median_error"}
    fields |= {"Largest error (%)": "largest_error", "In the interval (%)": "coverage"}
    return _definitions(Check, {**fields, "Faster (%)": "below", "Slower (%)": "above"})


def backtest_definitions() -> dict[str, str]:
    """Return heading -> definition of the backtest."""
    fields = {"Predicted": "predicted", "Step predicted (ms)": "step_ms"}
    fields |= {"Interval (ms)": "step_ms_high", "Measured (ms)": "step_ms_measured"}
    return _definitions(
        ScoredPrediction, {**fields, "Error (%)": "error", "In the interval": "inside"}
    )
