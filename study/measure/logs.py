"""What runs left in their folders, read back: run.json, metrics.jsonl and metrics.eval.jsonl.

A run may still be going on, or may have been killed while it wrote: a torn last line is skipped.
Anything else that is not as `trainer.records` has it is a ConfigError that names file, line, key.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from study.grid import Cell, Grid
from trainer.problems import ConfigError
from trainer.records import (
    EVALUATIONS,
    FAILURE,
    METRICS,
    SUMMARY,
    Evaluation,
    Failure,
    Record,
    RunSummary,
)
from trainer.settings import validate


@dataclass(frozen=True)
class Run:
    """All that a run left in its folder."""

    summary: RunSummary
    """Its run.json."""
    records: tuple[Record, ...]
    """Its metrics.jsonl, by ascending step."""
    evaluations: tuple[Evaluation, ...]
    """Its metrics.eval.jsonl, by ascending step."""

    @property
    def wall_s(self) -> float | None:
        """How long all attempts took, s; of an attempt that was killed, up to its last record."""
        walls = [attempt.wall_s for attempt in self.summary.attempts]
        known = [wall for wall in walls if wall is not None]
        if len(known) == len(walls):
            return sum(known)
        return self.records[-1].elapsed_s if self.records else None


LineT = TypeVar("LineT", Record, Evaluation)


def read_summary(folder: str | Path) -> RunSummary | None:
    """Return what a run's run.json says; None where no run was started."""
    path = Path(folder, SUMMARY)
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_not_finite)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from None
    return validate(RunSummary, _as_object(data, str(path)), str(path))


def read_failure(folder: str | Path) -> Failure | None:
    """Return what the last attempt of a run died of; None where it is not known."""
    try:
        return Failure.model_validate_json(Path(folder, FAILURE).read_bytes())
    except (OSError, ValueError):
        return None


def read_run(folder: str | Path) -> Run | None:
    """Return what stands in a run's folder; None where no run was started."""
    summary = read_summary(folder)
    if summary is None:
        return None
    records = tuple(_read_lines(Path(folder, METRICS), Record))
    evaluations = tuple(_read_lines(Path(folder, EVALUATIONS), Evaluation))
    return Run(summary=summary, records=records, evaluations=evaluations)


def is_stale(cell: Cell, summary: RunSummary) -> bool:
    """Say whether a run was made with other settings than its cell has now."""
    return summary.fingerprint != cell.run.fingerprint(cell.gpus)


def is_up_to_date(cell: Cell) -> bool:
    """Say whether a cell's run has ended, with the settings that the cell has now."""
    try:
        facts = json.loads(Path(cell.folder, SUMMARY).read_bytes())
        return facts["status"] == "completed" and facts["fingerprint"] == cell.run.fingerprint(
            cell.gpus
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_runs(grid: Grid) -> list[tuple[Cell, Run]]:
    """Return the runs of a study's cells, in the grid's order.

    A run with other settings than its cell has now is left out, and standard error says so. Raises
    ConfigError where a run counted other parameters than the study predicts: nothing that is
    derived from the shape would be true then.
    """
    runs = []
    for cell in grid:
        run = read_run(cell.folder)
        if run is None:
            continue
        if is_stale(cell, run.summary):
            message = "left out; the settings have changed since it was run"
            print(f"{cell.folder}: {message}", file=sys.stderr)
            continue
        if run.summary.params != cell.params:
            raise ConfigError(
                f"{cell.folder}/run.json",
                [
                    f"params: found {run.summary.params:,}; expected {cell.params:,}, the "
                    f"parameters that the study predicts for model '{cell.model}'"
                ],
            )
        runs.append((cell, run))
    return runs


def _read_lines(path: Path, cls: type[LineT]) -> Iterator[LineT]:
    """Yield the records of a file of JSON lines; nothing where there is no file yet."""
    if not path.exists():
        return
    *lines, rest = path.read_bytes().split(b"\n")
    last = 0
    for number, line in enumerate([*lines, rest] if rest else lines, start=1):
        source = f"{path}, line {number}"
        try:
            data = json.loads(line, parse_constant=_not_finite)
        except ValueError as error:
            # Only a line without its line end can be torn: the trainer writes both at once.
            if number > len(lines):
                return
            raise ConfigError(source, [f"not valid JSON: {error}"]) from None
        record = validate(cls, _as_object(data, source), source)
        if record.step <= last:
            problem = f"global_step: found {record.step} after {last}; expected a later step"
            raise ConfigError(source, [problem])
        last = record.step
        yield record


def _as_object(data: Any, source: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ConfigError(source, [f"expected a JSON object, found {str(data)[:40]}"])
    return data


def _not_finite(_: str) -> None:
    """Read NaN and Infinity, which JSON does not know but other writers write, as null."""
