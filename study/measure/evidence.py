"""Speeds measured elsewhere, as measurements: earlier studies, other trainers' logs, plain CSV."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from study.config import Evidence, Study
from study.files import read_csv
from study.grid import Cell, Grid, build_cell
from study.measure.foreign_logs import READERS, percentiles
from study.measure.measurement import Measurement, read_measurements
from trainer.config import ConfigError, load_yaml, merge, nest, validate
from trainer.problems import Problem

SETTING_COLUMNS = {
    "batch_size_per_gpu": "data.batch_size",
    "seq_len": "data.seq_len",
    "grad_acc_steps": "grad_acc_steps",
    "steps": "steps",
}
"""Columns of a CSV that are settings of the run -> key in a run.yaml."""

SPEED_COLUMNS = ("tokens_per_s_per_gpu", "tokens_per_s", "step_ms")
"""Columns of a CSV for the speed, of which it has one."""

OTHER_COLUMNS = (
    "cluster",
    "model",
    "gpus",
    "variant",
    "by",
    "startup_s",
    "wall_s",
    "peak_memory_gib",
)
"""All other columns of a CSV."""


def read_evidence(study: Study) -> list[Measurement]:
    """Return the measurements in a study's evidence. Raises ConfigError if a file is malformed."""
    measurements: list[Measurement] = []
    for index, entry in enumerate(study.evidence):
        if entry.format == "throughput":
            measurements += _of_study(entry)
        elif entry.format == "csv":
            measurements += _of_csv(study, entry)
        else:
            measurements.append(_of_log(study, entry, index))
    return measurements


def _of_study(entry: Evidence) -> Iterator[Measurement]:
    """Yield an earlier study's measurements; its study.yaml is next to its throughput.csv."""
    settings = Path(entry.file).with_name("study.yaml")
    grid = Grid(validate(Study, load_yaml(str(settings)), str(settings)))
    by = entry.by or f"study {grid.study.study}"
    for item in read_measurements(entry.file, grid, ended=True):
        yield replace(item, source=by)


def _of_csv(study: Study, entry: Evidence) -> Iterator[Measurement]:
    columns, rows = read_csv(entry.file)
    known = {*OTHER_COLUMNS, *SETTING_COLUMNS, *SPEED_COLUMNS}
    unknown = [name for name in columns if name not in known]
    if unknown:
        problem = f"unknown column '{unknown[0]}'; expected {', '.join(sorted(known))}"
        raise ConfigError(entry.file, [problem])
    for number, row in rows:
        try:
            yield _of_row(study, entry, row)
        except ConfigError as error:
            problems = [replace(problem, line=number) for problem in error.problems]
            raise ConfigError(entry.file, problems) from None


def _of_row(study: Study, entry: Evidence, row: Mapping[str, Any]) -> Measurement:
    changes = dict(entry.run)
    for column, key in SETTING_COLUMNS.items():
        if row.get(column):
            changes = merge(changes, nest(key, int(_number(row, column))))
    for name in ("cluster", "model", "gpus"):
        if not row.get(name):
            raise ConfigError(entry.file, [Problem((name,), "empty; expected a value")])
    cell = build_cell(
        study,
        entry.file,
        cluster=row["cluster"],
        model=row["model"],
        gpus=int(_number(row, "gpus")),
        variant=row.get("variant") or "base",
        changes=changes,
    )
    step_s = _step_s(cell, row)
    return Measurement(
        cell=cell,
        source=row.get("by") or entry.by or Path(entry.file).stem,
        completed=True,
        uninterrupted=True,
        step_s=(step_s, step_s, step_s),
        startup_s=_optional(row, "startup_s"),
        wall_s=_optional(row, "wall_s"),
        peak_memory_gib=_optional(row, "peak_memory_gib"),
    )


def _step_s(cell: Cell, row: Mapping[str, Any]) -> float:
    given = [name for name in SPEED_COLUMNS if row.get(name)]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        problem = Problem(("speed",), f"found {found}; expected one of {', '.join(SPEED_COLUMNS)}")
        raise ConfigError("csv", [problem])
    value = _number(row, given[0])
    if given[0] == "step_ms":
        return value / 1e3
    return cell.tokens_per_step / (value * (cell.gpus if given[0].endswith("_gpu") else 1))


def _number(row: Mapping[str, Any], name: str) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value < float("inf"):
        problem = Problem((name,), f"'{row[name]}'; expected a number above 0")
        raise ConfigError("csv", [problem])
    return value


def _optional(row: Mapping[str, Any], name: str) -> float | None:
    return _number(row, name) if row.get(name) else None


def _of_log(study: Study, entry: Evidence, index: int) -> Measurement:
    missing = [name for name in ("cluster", "model", "gpus") if getattr(entry, name) is None]
    if missing:
        message = "missing; a log of one run needs cluster, model and gpus"
        problem = Problem(("evidence", index, missing[0]), message)
        raise ConfigError(f"study {study.study}", [problem])
    assert entry.cluster and entry.model and entry.gpus
    cell = build_cell(
        study,
        f"evidence[{index}]",
        cluster=entry.cluster,
        model=entry.model,
        gpus=entry.gpus,
        variant=entry.variant,
        changes=entry.run,
    )
    steps = READERS[entry.format](Path(entry.file), cell)
    if not steps:
        message = f"found no steady step; expected a {entry.format} log with two or more"
        raise ConfigError(entry.file, [message])
    return Measurement(
        cell=cell,
        source=entry.by or Path(entry.file).stem,
        completed=True,
        uninterrupted=False,
        step_s=percentiles(steps),
        startup_s=None,
        wall_s=None,
        peak_memory_gib=None,
    )


def known_measurements(grid: Grid, csv_path: Path | None = None) -> list[Measurement]:
    """Return the measurements in a study's throughput.csv, if it exists, and in its evidence.

    Raises ConfigError if a file is malformed.
    """
    path = csv_path or Path(grid.study.folder, "throughput.csv")
    own = read_measurements(path, grid) if path.exists() or csv_path else []
    return [*own, *read_evidence(grid.study)] if grid.study.evidence else own
