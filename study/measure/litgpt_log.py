"""The metrics.csv of litgpt's pretrain."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from study.csv_tables import CsvRow, read_csv
from study.measure.entries import Event, Shape, Validation, make_entry
from study.measure.log_values import to_number
from study.measure.training_log import LogRecord, TrainingLog, mark_attempts
from trainer.problems import ConfigError

COLUMNS = {
    "loss": "loss",
    "lr": "learning_rate",
    "tokens": "total_tokens",
    "elapsed_s": "time",
    "validation_loss": "val_loss",
}
"""Value -> its column."""


def read_litgpt(path: Path) -> TrainingLog:
    """Return the speeds in the metrics.csv of litgpt's pretrain.

    `time` is the time since the start of training, with validation, whose rows have no `iter`. A
    file without it has `iter_time` only: the time of one micro-batch of all GPUs and the optimizer
    step, without waiting for data. `total_tokens` are those of all GPUs.
    """
    table = read_csv(path)
    timed = "time" in table.columns
    for name in ("iter", "total_tokens", "time" if timed else "iter_time"):
        if name not in table.columns:
            problem = f"no column '{name}'; expected litgpt's iter, total_tokens and iter_time"
            raise ConfigError(str(path), [problem])
    records = mark_attempts(_records(table.rows, timed))
    return TrainingLog(str(path), "tokens_per_s", records, saves_unmarked=timed)


def _records(rows: Sequence[CsvRow], timed: bool) -> Iterator[LogRecord]:
    last_tokens, last_s, validated = 0.0, 0.0, False
    for row in rows:
        if not row.text("iter"):
            validated = timed
            continue
        step, total = row.whole("iter"), row.number("total_tokens")
        if timed:
            time_s = row.number("time")
            tokens, seconds = total - last_tokens, time_s - last_s
            if seconds <= 0:
                raise row.problem("time", f"{time_s:g} after {last_s:g}; expected a later time")
            if tokens <= 0:
                message = f"{total:,.0f} after {last_tokens:,.0f}; expected more"
                raise row.problem("total_tokens", message)
            last_tokens, last_s = total, time_s
        else:
            tokens, seconds = total / step, row.number("iter_time")
        yield LogRecord(step, tokens / seconds, row.line, pauses=validated)
        validated = False


def litgpt_events(text: str, shape: Shape) -> Iterator[Event]:
    """Yield the rows of the metrics.csv of litgpt's pretrain.

    Its `step` is Fabric's: the number of micro-batches before, whatever litgpt counts. So steps
    follow from `total_tokens`, which are those of all GPUs.
    """
    last, tokens_per_iter, paused = 0, 0.0, False
    lines = text.splitlines()
    if text and not text.endswith("\n"):
        lines.pop()  # being written
    for row in csv.DictReader(lines):
        values = {name: to_number(row.get(column) or "") for name, column in COLUMNS.items()}
        iterations, total = _amount(row, "iter"), _amount(row, COLUMNS["tokens"])
        validation = values.pop("validation_loss")
        if validation is not None:
            before = _amount(row, "step")
            tokens = None if before is None else (before + 1) * tokens_per_iter
            step = int(tokens / shape.tokens_per_step + 1e-6) if tokens else last
            yield Validation(step=step, loss=validation)
            paused = True
        if not iterations or not total:
            continue
        tokens_per_iter = total / iterations
        last = round(total / shape.tokens_per_step)
        seconds = _amount(row, "iter_time")
        if values["elapsed_s"] is None and seconds is not None:
            values["step_s"] = seconds * shape.tokens_per_step / tokens_per_iter
        yield make_entry(last, values, shape, paused)
        paused = False


def _amount(row: Mapping[str, str], column: str) -> float | None:
    """Return a time or a count; None if a row has none, or not a possible one."""
    value = to_number(row.get(column) or "")
    return value if value is not None and 0 <= value < 2**63 else None
