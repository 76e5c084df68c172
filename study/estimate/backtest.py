"""The backtest: estimates made before a launch, compared with the measurements.

Predictions are appended to `predictions.jsonl` in the study's folder when runs are started, and
scored once the runs have been measured.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from study.config import Study
from study.estimate.forecast import Forecast
from study.estimate.scored import ScoredPrediction
from study.files import append_lines
from study.formats import format_number
from study.grid import Cell
from study.measure.measurement import Measurement
from trainer.json_files import parse_json
from trainer.problems import ConfigError, unreadable
from trainer.records import SUMMARY
from trainer.yaml_files import shorten

LONGEST_S = 1e9
"""Above all step times, s: 32 years."""


def _path(study: Study) -> Path:
    return Path(study.folder, "predictions.jsonl")


def record_predictions(cells: Sequence[Cell], forecast: Forecast) -> None:
    """Append the estimates of cells that are about to run for the first time.

    A run that has begun is not predicted again, as its own steps may have been measured already.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lines = []
    for cell in cells:
        estimate = forecast.estimate(cell)
        if estimate.seconds is None or Path(cell.folder, SUMMARY).exists():
            continue
        keys = ("steps", "seconds", "seconds_low", "seconds_high", "step_s", "step_s_low")
        values = {key: getattr(estimate, key) for key in (*keys, "step_s_high", "basis")}
        labels = {"cell": cell.name, "fingerprint": cell.fingerprint, "predicted": now}
        lines.append(json.dumps({**labels, **values}) + "\n")
    if lines:
        path = _path(forecast.grid.study)
        path.parent.mkdir(parents=True, exist_ok=True)
        append_lines(path, "".join(lines))


def score_predictions(study: Study, measurements: Sequence[Measurement]) -> list[ScoredPrediction]:
    """Return the last prediction of each run that has been measured since.

    Raises ConfigError if predictions.jsonl is malformed; an incomplete last line is skipped.
    """
    measured = {
        (item.cell.name, item.cell.fingerprint): item for item in measurements if not item.source
    }
    last = {(line["cell"], line["fingerprint"]): line for line in _read_predictions(study)}
    scored = []
    for key, line in last.items():
        if key in measured:
            interval = line["step_s_low"], line["step_s"], line["step_s_high"]
            made = line["predicted"], line["basis"]
            measured_s = measured[key].mean_step_s
            scored.append(ScoredPrediction.of(line["cell"], measured_s, interval, *made))
    return scored


def readable_backtest(scored: Sequence[ScoredPrediction]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows for people."""
    headings = ["Cell", "Predicted", "Step predicted (ms)", "Interval (ms)", "Measured (ms)"]
    to_ms = partial(format_number, digits=4)
    rows = [
        [
            item.cell,
            item.predicted or "",
            to_ms(item.step_ms),
            f"{to_ms(item.step_ms_low)} to {to_ms(item.step_ms_high)}",
            to_ms(item.step_ms_measured),
            f"{100 * item.error:+.1f}",
            "inside" if item.inside else "outside",
        ]
        for item in scored
    ]
    return [*headings, "Error (%)", "In the interval"], rows


def _read_predictions(study: Study) -> list[dict[str, Any]]:
    path = _path(study)
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(path, error) from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
            for key in ("step_s", "step_s_low", "step_s_high"):
                record[key] = float(record[key])
                if not 0 < record[key] < LONGEST_S:
                    raise ValueError(f"{key} is {record[key]:g}; expected the seconds of a step")
            for key in ("cell", "fingerprint", "predicted", "basis"):
                record[key] = str(record[key])
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            if line.endswith(b"\n"):
                problem = f"line {number}: not a prediction: {shorten(repr(error))}; delete it"
                raise ConfigError(str(path), [problem]) from None
            continue
        found.append(record)
    return found
