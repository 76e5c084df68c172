"""Read what is left of a run: run.json, metrics.jsonl and metrics.eval.jsonl.

A run may still be in progress, or may have been killed during a write: an incomplete last line is
skipped. Any other deviation from `trainer.records` is a ConfigError with file, line and key.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from study.grid import Cell, Grid
from study.measure.records import Records, check_order, parse_line, read_records
from study.measure.summaries import is_stale, read_summary
from trainer.problems import ConfigError, unreadable
from trainer.records import EVALUATIONS, METRICS, SUMMARY, Evaluation, RunSummary


@dataclass(frozen=True)
class Run:
    """The records in a run's folder."""

    summary: RunSummary
    """run.json."""
    records: Records
    """metrics.jsonl, by ascending step."""
    evaluations: tuple[Evaluation, ...]
    """metrics.eval.jsonl, by ascending step."""

    @property
    def wall_s(self) -> float | None:
        """Duration of all attempts, s; up to the last record if an attempt was killed."""
        walls = [attempt.wall_s for attempt in self.summary.attempts]
        known = [wall for wall in walls if wall is not None]
        if len(known) == len(walls):
            return sum(known)
        return self.records[-1].elapsed_s if self.records else None


STALE = "left out; the settings have changed since the run"


def read_run(folder: str | Path) -> Run | None:
    """Return the records in a run's folder; None if no run was started."""
    summary = read_summary(folder)
    if summary is None:
        return None
    try:
        records = read_records(Path(folder, METRICS))
        evaluations = tuple(_read_evaluations(Path(folder, EVALUATIONS)))
    except OSError as error:
        raise unreadable(error.filename, error) from None
    return Run(summary=summary, records=records, evaluations=evaluations)


def each_run(grid: Grid, left_out: dict[str, str] | None = None) -> Iterator[tuple[Cell, Run]]:
    """Yield the runs of a study's cells, in the grid's order; each is read when it is asked for.

    A run whose settings differ from the current ones of its cell, or whose files are damaged, is
    left out, with a message on standard error, and name of its cell -> the reason in `left_out`.
    Raises ConfigError if a run's parameter count differs from the study's: then everything derived
    from the shape would be wrong.
    """
    reasons = {} if left_out is None else left_out
    for cell in grid:
        try:
            run = _read_whole(cell)
        except ConfigError as error:
            print(f"{error}; the run is left out", file=sys.stderr)
            reasons[cell.name] = _in_a_line(error)
            continue
        if run is None:
            continue
        if is_stale(cell, run.summary):
            print(f"{cell.folder}: {STALE}", file=sys.stderr)
            reasons[cell.name] = STALE.partition("; ")[2]
            continue
        if run.summary.params != cell.params:
            raise ConfigError(
                f"{cell.folder}/{SUMMARY}",
                [
                    f"params: found {run.summary.params:,}; expected {cell.params:,}, the "
                    f"study's count for model '{cell.model}'"
                ],
            )
        yield cell, run


def find_damage(cell: Cell) -> str:
    """Return what is wrong with the files of a cell's run, on one line; empty if nothing is."""
    try:
        _read_whole(cell)
    except ConfigError as error:
        return _in_a_line(error)
    return ""


def _in_a_line(error: ConfigError) -> str:
    return f"{Path(error.source).name}: {error.problems[0]}"


def _read_whole(cell: Cell) -> Run | None:
    """Return a cell's run; None if none was started.

    Raises ConfigError also if a completed run has lost its last records, as in a copy that was cut:
    an earlier loss would be taken for its last.
    """
    run = read_run(cell.folder)
    if run is not None and not is_stale(cell, run.summary):
        _check_records(cell, run)
    return run


def _check_records(cell: Cell, run: Run) -> None:
    """Raise ConfigError if a completed run has lost its last records."""
    last = run.records[-1].step if run.records else 0
    if run.summary.status == "completed" and last < run.summary.steps_done:
        found = f"ends at step {last:,}; expected step {run.summary.steps_done:,}, as in {SUMMARY}"
        remedy = "restore the file, or delete the run's folder to train it again"
        raise ConfigError(f"{cell.folder}/{METRICS}", [f"{found}; {remedy}"])


def _read_evaluations(path: Path) -> Iterator[Evaluation]:
    """Yield the records in a metrics.eval.jsonl; none if it does not exist yet."""
    if not path.exists():
        return
    last = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            record = parse_line(line, path, number, Evaluation)
            if record is None:
                return
            check_order(record.step, last, path, number)
            last = record.step
            yield record
