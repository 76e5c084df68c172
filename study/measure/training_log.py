"""What the log of another trainer says of its speed, and which of its steps are in steady state.

The first interval of every attempt includes start-up and compilation and is left out, as are
intervals that include a checkpoint or an evaluation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from study.grid import Cell
from trainer.problems import ConfigError, Problem

Unit = Literal["tokens_per_s_per_gpu", "tokens_per_s", "step_ms"]
"""What a speed is: tokens/s of one GPU or of all GPUs, or the time of an optimizer step, ms."""

Covered = Literal["step", "interval"]
"""What a speed is the mean of: one step, or all steps since the record before."""

SAME = 0.01
"""Relative difference up to which two counts of tokens are the same: logs round their speeds."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A speed in a log: of the steps since the previous record, or of one step alone."""

    step: int
    """Of the log; only its order counts."""
    speed: float
    """In the log's unit."""
    line: int
    """Line of the file, from 1."""
    starts: bool = False
    """The speed includes a start: it is the first of an attempt."""
    pauses: bool = False
    """The speed includes an evaluation or a checkpoint."""


@dataclass(frozen=True)
class TrainingLog:
    """The speeds in a log of one run, by ascending step."""

    source: str
    """Path of the file."""
    unit: Unit
    records: tuple[LogRecord, ...]
    tokens_per_step: float | None = None
    """Of all GPUs; None if the log does not say."""
    saves_unmarked: bool = False
    """Speeds may include checkpoints without saying so."""
    covers: Covered | None = None
    """None if the log counts something else than steps."""


@dataclass(frozen=True)
class SteadySteps:
    """The steps of a log in steady state."""

    times_s: list[float]
    """Step time of each record, s."""
    count: int | None
    """Steps that the records cover; None if the log does not say."""


def to_step_s(cell: Cell, unit: Unit, speed: float) -> float:
    """Return the time of an optimizer step of a cell, s, at a speed above 0."""
    if unit == "step_ms":
        return speed / 1e3
    return cell.tokens_per_step / (speed * (cell.gpus if unit == "tokens_per_s_per_gpu" else 1))


def steady_steps(log: TrainingLog, cell: Cell) -> SteadySteps:
    """Return the steps in steady state.

    Raises ConfigError if one of these speeds is not above 0, or if the log has another number of
    tokens per step than the cell.
    """
    _check_tokens(log, cell)
    checkpoint = cell.run.checkpoint if log.saves_unmarked else None
    saves = checkpoint.periods if checkpoint else ()
    found, count, before = [], 0, 0
    for record in log.records:
        # A save after a step is in the time of the next one.
        first = record.step - 1 if log.covers == "step" else before
        saved = any(has_multiple(first, record.step - 1, every) for every in saves)
        covered = max(1, record.step - before) if log.covers == "interval" else 1
        before = record.step
        if record.starts or record.pauses or saved:
            continue
        step_s = to_step_s(cell, log.unit, record.speed) if record.speed > 0 else 0.0
        if not 0 < step_s < float("inf"):
            message = f"step {record.step} has the speed {record.speed:g}; expected one above 0"
            raise ConfigError(log.source, [Problem((), message, line=record.line)])
        found.append(step_s)
        count += covered
    return SteadySteps(found, count if log.covers else None)


def has_multiple(low: int, high: int, number: int) -> bool:
    """Return whether a positive multiple of a number is from `low` up to `high`."""
    return high // number > max(0, low - 1) // number


def _check_tokens(log: TrainingLog, cell: Cell) -> None:
    logged, expected = log.tokens_per_step, cell.tokens_per_step
    if logged is not None and abs(logged - expected) > SAME * expected:
        message = (
            f"found about {logged:,.0f} tokens per step; expected {expected:,}, which the study "
            f"and this entry's `run` set for {cell.model} on {cell.gpus}x GPU"
        )
        raise ConfigError(log.source, [message])


def mark_attempts(records: Iterable[LogRecord]) -> tuple[LogRecord, ...]:
    """Return each step of a log once, with the first record of each attempt marked.

    An attempt starts where the log says so (`starts`), or where the steps go back; it replaces the
    earlier records of the steps that it does again. A step that is seen twice is another rank's and
    left out; so is the last but one, if fewer ranks have printed it than printed others, or if the
    log then goes on beyond the last. Takes time in proportion to the number of records.
    """
    given = list(records)
    kept: list[LogRecord] = []
    printed: dict[int, int] = {}  # step of this attempt -> how many have printed it
    ranks, starts, pauses = 1, True, False
    for record, following in zip(given, _following(given), strict=True):
        step = record.step
        starts, pauses = starts or record.starts, pauses or record.pauses
        top = kept[-1].step if kept else step
        is_last_but_one = step in printed and len(kept) > 1 and step == kept[-2].step
        late = is_last_but_one and (printed[step] < ranks or following > top)
        if starts or (step < top and not late):
            starts, printed = True, {}
            while kept and kept[-1].step >= step:
                kept.pop()
        printed[step] = printed.get(step, 0) + 1
        ranks = max(ranks, printed[step])
        if starts or step > top:
            kept.append(replace(record, starts=starts, pauses=pauses))
            starts, pauses = False, False
    return tuple(kept)


def _following(records: Sequence[LogRecord]) -> list[int]:
    """Return for each record the next other step; its own at the end of the log."""
    found = []
    step = after = records[-1].step if records else 0
    for record in reversed(records):
        if record.step != step:
            step, after = record.step, step
        found.append(after)
    return found[::-1]
