"""Speeds measured elsewhere, as measurements: earlier studies, other trainers' logs, plain CSV."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from study.config import Evidence, Study
from study.csv_tables import CsvRow, read_csv
from study.grid import Cell, Grid, build_cell
from study.measure.foreign_logs import read_steady_steps, with_hint
from study.measure.measurement import Measurement, read_measurements, step_mean
from study.measure.training_log import Unit, to_step_s
from trainer.files import stat_readable
from trainer.layers import merge, nest
from trainer.problems import ConfigError, unreadable
from trainer.settings import validate
from trainer.yaml_files import load_yaml, shorten

SETTING_COLUMNS = {
    "batch_size_per_gpu": "data.batch_size",
    "seq_len": "data.seq_len",
    "grad_acc_steps": "grad_acc_steps",
    "steps": "steps",
    "tp_size": "distributed.tp_size",
    "dp_shard": "distributed.dp_shard",
}
"""Columns of a CSV that are settings of the run, whole numbers -> key in a run.yaml."""

WORD_COLUMNS = {
    "activation_checkpointing": "distributed.activation_checkpointing",
    "fsdp_type": "distributed.fsdp_type",
    "model_dtype": "distributed.model_dtype",
    "compile": "distributed.compile",
}
"""The same for settings that are words."""

SPEED_COLUMNS: tuple[Unit, ...] = get_args(Unit)
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

SHOWN = 20
"""Problems of a CSV that are reported at once."""


def read_evidence(study: Study) -> list[Measurement]:
    """Return the measurements in a study's evidence. Raises ConfigError if a file is malformed."""
    measurements: list[Measurement] = []
    for index, entry in enumerate(study.evidence):
        _check_file(entry)
        if entry.format == "throughput":
            measurements += _of_study(entry)
        elif entry.format == "csv":
            measurements += _of_csv(study, entry)
        else:
            measurements.append(_of_log(study, entry, index))
    return measurements


def _check_file(entry: Evidence) -> None:
    """Raise ConfigError if evidence is a FIFO, for which every command would wait forever."""
    try:
        stat_readable(entry.file)
    except FileNotFoundError:
        return  # the reader says what it expected
    except OSError as error:
        raise unreadable(entry.file, error) from None


def _of_study(entry: Evidence) -> Iterator[Measurement]:
    """Yield an earlier study's measurements; its study.yaml is next to its throughput.csv."""
    settings = Path(entry.file).with_name("study.yaml")
    if not settings.exists():
        read_csv(entry.file)  # raises ConfigError if the table does not exist either
        problem = f"found no {settings.name} beside it, which says what it measured; copy it, too"
        raise ConfigError(entry.file, [f"{problem}, or write a table of `format: csv`"])
    grid = _grid_of(settings)
    by = entry.by or f"study {grid.study.study}"
    for item in read_measurements(entry.file, grid, ended=True):
        yield replace(item, source=by)


def _of_csv(study: Study, entry: Evidence) -> list[Measurement]:
    try:
        rows = _read_rows(entry)
    except ConfigError as error:
        raise with_hint(error, entry.format, Path(entry.file)) from None
    found, problems = [], []
    for row in rows:
        try:
            found.append(_of_row(study, entry, row))
        except ConfigError as error:
            problems += [replace(problem, line=row.line) for problem in error.problems]
            if len(problems) >= SHOWN:
                break
    if problems:
        raise ConfigError(entry.file, problems)
    return found


def _read_rows(entry: Evidence) -> Sequence[CsvRow]:
    table = read_csv(entry.file)
    if not table.columns:
        expected = "a header line with cluster, model, gpus and a speed"
        raise ConfigError(entry.file, [f"no columns; expected {expected}"])
    if set(table.columns) >= {"cluster", "model", "fingerprint"}:
        problem = "found the columns of a throughput.csv; expected `format: throughput` for it"
        raise ConfigError(entry.file, [f"{problem}, and its study.yaml beside it"])
    known = {*OTHER_COLUMNS, *SETTING_COLUMNS, *WORD_COLUMNS, *SPEED_COLUMNS}
    unknown = [name for name in table.columns if name not in known]
    if unknown:
        problem = f"unknown column '{shorten(unknown[0])}'; expected {', '.join(sorted(known))}"
        raise ConfigError(entry.file, [problem])
    return table.rows


def _of_row(study: Study, entry: Evidence, row: CsvRow) -> Measurement:
    changes = merge(entry.run, _settings(row))
    for name in ("cluster", "model", "gpus"):
        if not row.text(name):
            raise row.problem(name, "empty; expected a value")
    cell = build_cell(
        study,
        entry.file,
        cluster=row.text("cluster"),
        model=row.text("model"),
        gpus=row.whole("gpus"),
        variant=row.text("variant") or "base",
        trainer=entry.trainer,
        changes=changes,
    )
    step_s, wall_s = _step_s(cell, row), _optional(row, "wall_s")
    # The time of a whole run is one of the study's steps if the row does not state its own.
    whole = wall_s is not None or row.text("steps")
    return Measurement(
        cell=cell,
        source=row.text("by") or entry.by or Path(entry.file).stem,
        completed=True,
        uninterrupted=True,
        step_s=(step_s, step_s, step_s),
        startup_s=_optional(row, "startup_s"),
        wall_s=wall_s,
        peak_memory_gib=_optional(row, "peak_memory_gib"),
        steady_steps=cell.run.steps if whole else None,
    )


def _settings(row: CsvRow) -> dict[str, Any]:
    """Return the settings of the run that a row states."""
    given = [nest(key, row.whole(name)) for name, key in SETTING_COLUMNS.items() if row.text(name)]
    words = {name: row.text(name) for name in WORD_COLUMNS if row.text(name)}
    if "activation_checkpointing" in words:
        # The run may ask for it by its other key.
        given.append(nest("distributed.selective_activation_checkpointing", False))
    # Spreadsheets write TRUE.
    booleans = {"true": True, "false": False}
    given += [nest(WORD_COLUMNS[name], booleans.get(w.lower(), w)) for name, w in words.items()]
    return merge({}, *given)


def _step_s(cell: Cell, row: CsvRow) -> float:
    given = [name for name in SPEED_COLUMNS if row.text(name)]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        message = f"found {found}; expected one of {', '.join(SPEED_COLUMNS)}"
        raise row.problem("speed", message)
    step_s = to_step_s(cell, given[0], row.number(given[0]))
    if not 0 < step_s < float("inf"):
        raise row.problem(given[0], f"'{row.text(given[0])}' makes a step of {step_s:g} s")
    return step_s


def _optional(row: CsvRow, name: str) -> float | None:
    return row.number(name) if row.text(name) else None


def _of_log(study: Study, entry: Evidence, index: int) -> Measurement:
    assert entry.cluster and entry.model and entry.gpus
    cell = build_cell(
        study,
        f"evidence[{index}]",
        cluster=entry.cluster,
        model=entry.model,
        gpus=entry.gpus,
        variant=entry.variant,
        trainer=entry.trainer,
        changes=entry.run,
    )
    steps = read_steady_steps(entry.format, Path(entry.file), cell)
    times_s = np.array(steps.times_s)
    mean, error = step_mean(times_s, np.ones(len(times_s), int))
    return Measurement(
        cell=cell,
        source=entry.by or Path(entry.file).stem,
        completed=True,
        uninterrupted=False,
        step_s=percentiles(steps.times_s),
        startup_s=None,
        wall_s=None,
        peak_memory_gib=None,
        steps_only=True,
        mean_s=mean,
        mean_error_s=error,
        steady_steps=steps.count,
        steady_intervals=len(times_s),
    )


def percentiles(values: Iterable[float]) -> tuple[float, float, float]:
    """Return the 10th, 50th and 90th percentiles."""
    low, middle, high = (float(value) for value in np.quantile(list(values), (0.1, 0.5, 0.9)))
    return low, middle, high


def earlier_measurements(grid: Grid) -> list[Measurement]:
    """Return what the study's runs measured before it was edited.

    Until its first job replaces them, its study.yaml and throughput.csv are those of before. A run
    that will be made again, for more steps, tells its speed until then. Empty if there are none, or
    if they are of a version whose studies are no longer valid.
    """
    table = Path(grid.study.folder, "throughput.csv")
    settings = table.with_name("study.yaml")
    try:
        if grid.study.is_in(settings):
            return []
        found = read_measurements(table, _grid_of(settings))
    except (OSError, ConfigError):
        return []
    present = {cell.fingerprint for cell in grid}
    others = [item for item in found if item.cell.fingerprint not in present]
    return _on_its_gpus(
        grid.study, [replace(item, source="this study before its edit") for item in others]
    )


def _grid_of(settings: Path) -> Grid:
    return Grid(validate(Study, load_yaml(str(settings)), str(settings)))


def known_measurements(grid: Grid, csv_path: Path | None = None) -> list[Measurement]:
    """Return the measurements in a study's throughput.csv, if it exists, and in its evidence.

    Those made on a GPU that is not their cluster's current one are left out. Raises ConfigError if
    a file is malformed.
    """
    path = csv_path or Path(grid.study.folder, "throughput.csv")
    own = read_measurements(path, grid) if path.exists() or csv_path else []
    return _on_its_gpus(grid.study, [*own, *read_evidence(grid.study)])


def _on_its_gpus(study: Study, measured: Sequence[Measurement]) -> list[Measurement]:
    """Return the measurements made on the current GPU of the cluster that they name."""
    clusters = study.clusters
    return [
        item
        for item in measured
        if item.cell.cluster not in clusters or clusters[item.cell.cluster].has_gpu(item.gpu_name)
    ]
