"""The metrics.jsonl of lingua."""

import json
import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from study.measure.described_logs import json_lines
from study.measure.line_logs import read_lines
from study.measure.log_values import as_number, describe_value
from study.measure.training_log import LogRecord, TrainingLog, mark_attempts
from trainer.problems import ConfigError, Problem
from trainer.yaml_files import shorten

FIELDS = {
    "step": "global_step",
    "loss": "loss/out",
    "lr": "optim/lr",
    "grad_norm": "optim/grad_norm",
    "tokens": "optim/total_tokens",
    "tokens_per_s_per_gpu": "speed/wps",
    "memory_gib": "memory/max_reserved_gib",
}
"""Value -> its key in a record."""


def read_lingua(path: Path) -> TrainingLog:
    """Return the speeds in a lingua metrics.jsonl.

    `speed/wps` is tokens/s of one GPU, the mean since the record before. With `logging.acc_freq`
    a step has several records, of some of its micro-batches each; they count as one. The records
    do not say where checkpoints were saved.
    """
    records: list[LogRecord] = []
    tokens_per_step = None
    counts: list[float] = []  # of the records since the last whole step: tokens, and seconds
    seconds: list[float] = []
    last, last_total = (-1, 0), 0.0  # 0: not known
    for number, data in _json_lines(path):
        get = partial(_field, path, number, data)
        step, wps = _whole(path, number, "global_step", get("global_step")), get("speed/wps")
        micro = _whole(path, number, "acc_step", get("acc_step")) if "acc_step" in data else 0
        total = get("optim/total_tokens") if data.get("optim/total_tokens") is not None else 0.0
        if (step, micro) <= last:
            counts, seconds, last_total = [], [], 0.0
        counts.append(total - last_total if 0 < last_total < total else 1.0)
        seconds.append(counts[-1] / wps if wps > 0 else float("inf"))
        last, last_total = (step, micro), total
        if micro == 0:
            records.append(LogRecord(step, sum(counts) / sum(seconds), number))
            counts, seconds = [], []
            tokens_per_step = total / step if total and step else tokens_per_step
    marked = mark_attempts(records)
    return TrainingLog(
        str(path),
        "tokens_per_s_per_gpu",
        marked,
        tokens_per_step,
        saves_unmarked=True,
        covers="interval",
    )


def _json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the records of a JSON Lines file; a last line without its newline may be incomplete."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            if not line.endswith("\n"):
                continue  # cut off by a kill
            data = None
        if not isinstance(data, dict):
            expected = "expected a JSON object with global_step and speed/wps"
            message = f"found {shorten(line.strip())!r}; {expected}"
            raise ConfigError(str(path), [Problem((), message, line=number)])
        yield number, data


def _field(path: Path, line: int, data: Mapping[str, Any], key: str) -> float:
    value = as_number(data.get(key))
    if value is None or not math.isfinite(value):
        message = f"{describe_value(data.get(key))}; expected a number"
        raise ConfigError(str(path), [Problem((key,), message, line=line)])
    return value


def _whole(path: Path, line: int, key: str, value: float) -> int:
    if value != int(value) or value < 0:
        message = f"found {value:g}; expected a whole number of 0 or more"
        raise ConfigError(str(path), [Problem((key,), message, line=line)])
    return int(value)


def _within_a_step(data: Mapping[str, Any]) -> bool:
    """Whether a record of lingua is of some micro-batches of a step, with `logging.acc_freq`."""
    return bool(data.get("acc_step"))


lingua_values = json_lines(FIELDS, _within_a_step)
"""Returns the values in a line; None if it has none."""
