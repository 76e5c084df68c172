"""Before a launch: what its runs will need, whether the study's budget holds them, and the ledger.

Predictions are kept in `predictions.jsonl` of the study's folder when the runs are started, and are
scored when these have landed.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from study.config import Study
from study.estimate import Estimate, Estimator
from study.evidence import read_evidence
from study.grid import Cell, Grid
from study.launch import Needs
from study.logs import read_summary
from study.measurement import Measurement, read_measurements
from trainer.config import ConfigError
from trainer.optimizers import OPTIMIZERS

MARGIN = 1.1
"""Factor on the upper end of a run's time, as its time limit."""

MARGIN_MIN = 5
"""Minutes more: the node's start, and the last save."""

PROCESS_GIB = 6
"""Memory of a node for each rank: Python, PyTorch with CUDA, and the batches in flight."""

STAGED_COPIES = 2
"""Copies in a node's memory of what a rank saves: on its way to disk, and while a file of it is
written."""


class Forecast:
    """What is known before a launch: of a study's own runs, and of what it names as evidence."""

    def __init__(self, grid: Grid) -> None:
        """Read the measurements; raises ConfigError where their files are malformed."""
        self.grid = grid
        self.estimator = Estimator(known_measurements(grid))

    def estimate(self, cell: Cell) -> Estimate:
        """Return the time of a cell's whole run."""
        return self.estimator.estimate(cell, cell.run.steps)

    def needs(self, cell: Cell) -> Needs:
        """Return what a cell's run needs of a node."""
        high = self.estimate(cell).seconds_high
        minutes = None if high is None else math.ceil(high * MARGIN / 60) + MARGIN_MIN
        return Needs(mem_gib=self._mem_gib(cell), runtime_min=minutes)

    def _mem_gib(self, cell: Cell) -> int:
        """Return the memory of a node, GiB, with a quarter to spare."""
        ranks = min(cell.gpus, cell.place.gpus_per_node)
        if cell.place.device == "cpu":
            # The model lives there.
            each = self.estimator.memory_gib(cell).high
        else:
            saved = OPTIMIZERS[cell.run.optim.name].checkpoint_bytes * cell.params
            each = PROCESS_GIB + STAGED_COPIES * saved / 2**30 / ranks
        return math.ceil(1.25 * (ranks * each + 2))


def known_measurements(grid: Grid, csv_path: Path | None = None) -> list[Measurement]:
    """Return a study's own measurements, of its throughput.csv, and those it names as evidence.

    Raises ConfigError where a file is malformed. Without a throughput.csv none are its own.
    """
    path = csv_path or Path(grid.study.folder, "throughput.csv")
    own = read_measurements(path, grid) if path.exists() or csv_path else []
    return [*own, *read_evidence(grid.study)] if grid.study.evidence else own


def check_budget(study: Study, cells: Sequence[Cell], forecast: Forecast) -> str | None:
    """Return why a launch of `cells` is stopped, or None where the study's budget holds it."""
    budget = study.budget
    if (budget.gpu_hours is None and budget.cost is None) or study.confirm == study.study:
        return None
    estimates = [forecast.estimate(cell) for cell in cells]
    problems = []
    for name, limit, values in (
        ("gpu_hours", budget.gpu_hours, [item.gpu_hours for item in estimates]),
        ("cost", budget.cost, [item.cost for item in estimates]),
    ):
        known = sum(value for value in values if value is not None)
        if limit is not None and known > limit:
            problems.append(
                f"budget.{name}: {len(cells)} cells are estimated at {known:.3g}, the limit is "
                f"{limit:g}; to launch all the same: --config confirm={study.study}"
            )
    return str(ConfigError(f"study {study.study}", problems)) if problems else None


def _path(study: Study) -> Path:
    return Path(study.folder, "predictions.jsonl")


def record_predictions(cells: Sequence[Cell], forecast: Forecast) -> None:
    """Append the estimates of cells that are about to run for the first time.

    A run that has begun is not predicted any more, as its own steps may be measured already.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lines = []
    for cell in cells:
        estimate = forecast.estimate(cell)
        if estimate.seconds is None or read_summary(cell.folder) is not None:
            continue
        keys = ("steps", "seconds", "seconds_low", "seconds_high", "step_s", "step_s_low")
        values = {key: getattr(estimate, key) for key in (*keys, "step_s_high", "basis")}
        fingerprint = cell.run.fingerprint(cell.gpus)
        record = {"cell": cell.name, "fingerprint": fingerprint, "predicted": now, **values}
        lines.append(json.dumps(record) + "\n")
    if lines:
        path = _path(forecast.grid.study)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))


@dataclass(frozen=True)
class Outcome:
    """A row of the ledger: an estimate made before a run, and what the run measured."""

    cell: str
    predicted: str
    """When the estimate was made, ISO 8601."""
    basis: str
    step_ms: float
    """Estimated time of a step."""
    step_ms_low: float
    step_ms_high: float
    """Ends of its 80% interval."""
    step_ms_measured: float
    error: float
    """step_ms / step_ms_measured - 1."""
    inside: bool
    """The measured time lies in the interval."""


def score_predictions(study: Study, measurements: Sequence[Measurement]) -> list[Outcome]:
    """Return the ledger: the last prediction of each run that was measured since.

    Raises ConfigError where predictions.jsonl is malformed; a line torn by a kill is passed over.
    """
    measured = {
        (item.cell.name, item.cell.run.fingerprint(item.cell.gpus)): item
        for item in measurements
        if not item.source
    }
    last = {(line["cell"], line["fingerprint"]): line for line in _read_predictions(study)}
    outcomes = []
    for key, line in last.items():
        if key in measured:
            step_s = measured[key].step_s[1]
            low, middle, high = (line[name] for name in ("step_s_low", "step_s", "step_s_high"))
            outcomes.append(
                Outcome(
                    cell=line["cell"],
                    predicted=line["predicted"],
                    basis=line["basis"],
                    step_ms=1e3 * middle,
                    step_ms_low=1e3 * low,
                    step_ms_high=1e3 * high,
                    step_ms_measured=1e3 * step_s,
                    error=middle / step_s - 1,
                    inside=low <= step_s <= high,
                )
            )
    return outcomes


def readable_ledger(outcomes: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows for people."""
    headings = ["Cell", "Predicted", "Step predicted (ms)", "Interval (ms)", "Measured (ms)"]
    rows = [
        [
            item.cell,
            item.predicted,
            f"{item.step_ms:.4g}",
            f"{item.step_ms_low:.4g} to {item.step_ms_high:.4g}",
            f"{item.step_ms_measured:.4g}",
            f"{100 * item.error:+.1f}",
            "inside" if item.inside else "outside",
        ]
        for item in outcomes
    ]
    return [*headings, "Error (%)", "In the interval"], rows


def _read_predictions(study: Study) -> list[dict[str, Any]]:
    path = _path(study)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            for key in ("step_s", "step_s_low", "step_s_high"):
                record[key] = float(record[key])
            for key in ("cell", "fingerprint", "predicted", "basis"):
                record[key] = str(record[key])
        except (ValueError, KeyError, TypeError) as error:
            if line.endswith("\n"):
                problem = f"line {number}: not a prediction: {error!r}"
                raise ConfigError(str(path), [problem]) from None
            continue
        found.append(record)
    return found
