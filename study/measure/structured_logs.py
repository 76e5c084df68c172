"""Logs with named fields: metrics.jsonl of lingua, metrics.csv of litgpt, trainer_state.json of
Hugging Face's Trainer, CSV of Weights & Biases."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from study.csv_tables import CsvRow, read_csv
from study.files import open_text
from study.measure.line_logs import read_lines
from study.measure.training_log import LogRecord, TrainingLog, Unit, mark_attempts
from trainer.problems import ConfigError, Problem
from trainer.yaml_files import shorten


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
        str(path), "tokens_per_s_per_gpu", marked, tokens_per_step, saves_unmarked=True
    )


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
    records = mark_attempts(_of_litgpt(table.rows, timed))
    return TrainingLog(str(path), "tokens_per_s", records, saves_unmarked=timed)


def _of_litgpt(rows: Sequence[CsvRow], timed: bool) -> Iterator[LogRecord]:
    last_tokens, last_s, validated = 0.0, 0.0, False
    for row in rows:
        if not row.text("iter"):
            validated = timed
            continue
        step, total = row.whole("iter"), row.number("total_tokens")
        if timed:
            time_s = row.number("time")
            tokens, seconds = total - last_tokens, time_s - last_s
            if tokens <= 0 or seconds <= 0:
                raise row.problem("time", f"{time_s:g} after {last_s:g}; expected a later time")
            last_tokens, last_s = total, time_s
        else:
            tokens, seconds = total / step, row.number("iter_time")
        yield LogRecord(step, tokens / seconds, row.line, pauses=validated)
        validated = False


def read_trainer_state(path: Path) -> TrainingLog:
    """Return the speeds in a trainer_state.json of Hugging Face's Trainer.

    With `include_num_input_tokens_seen` every entry has the time since the start of training, and
    intervals count. Otherwise `train_runtime` of the last entry gives the mean step time: it
    includes the first step and saves, but neither evaluations, which are subtracted, nor the
    start-up before training.
    """
    history = _history(path)
    timed = [item for item in history if "loss" in item and "train_runtime" in item]
    records = tuple(_intervals(path, history)) if len(timed) > 1 else (_mean(path, history),)
    return TrainingLog(str(path), "step_ms", records)


def _history(path: Path) -> list[Mapping[str, Any]]:
    try:
        with open_text(path) as file:
            data = json.loads(file.read())
        history = data["log_history"]
    except (OSError, ValueError, RecursionError) as error:
        problem = f"not valid JSON: {error}; expected a trainer_state.json"
        raise ConfigError(str(path), [problem]) from None
    except (KeyError, TypeError, IndexError):
        problem = "no 'log_history'; expected a trainer_state.json of Hugging Face's Trainer"
        raise ConfigError(str(path), [problem]) from None
    if not isinstance(history, list) or not all(isinstance(item, dict) for item in history):
        raise ConfigError(str(path), [Problem(("log_history",), "expected a list of mappings")])
    return history


def _intervals(path: Path, history: list[Mapping[str, Any]]) -> Iterator[LogRecord]:
    """Yield the mean step time of each interval; after a resume the time starts again at 0."""
    last, pauses = (0, 0.0), False
    for index, item in enumerate(history):
        if "loss" not in item or "train_runtime" not in item:
            pauses = pauses or "eval_runtime" in item
            continue
        step, time_s = _entry(path, index, item, "step"), _entry(path, index, item, "train_runtime")
        starts = last == (0, 0.0) or time_s <= last[1]
        if step > last[0]:
            step_ms = 0.0 if starts else 1e3 * (time_s - last[1]) / (step - last[0])
            yield LogRecord(int(step), step_ms, index + 1, starts, pauses)
        last, pauses = (int(step), time_s), False


def _mean(path: Path, history: list[Mapping[str, Any]]) -> LogRecord:
    """Return the mean step time of a training, from its summary."""
    summaries = [i for i, item in enumerate(history) if "train_runtime" in item]
    index = next((i for i in reversed(summaries) if "loss" not in history[i]), None)
    if index is None:
        problem = (
            "no 'train_runtime' in log_history; expected the state that trainer.save_state() "
            "writes when training ends: that of a checkpoint has no times"
        )
        raise ConfigError(str(path), [problem])
    item = history[index]
    step, seconds = _entry(path, index, item, "step"), _entry(path, index, item, "train_runtime")
    steps = step
    if "train_steps_per_second" in item:
        # After a resume, newer versions count only the steps since then.
        rate = _entry(path, index, item, "train_steps_per_second")
        done = round(rate * seconds)
        steps = done if 0 < done < 0.9 * step and rate >= 0.01 else step
    evaluated = sum(
        _entry(path, number, other, "eval_runtime")
        for number, other in enumerate(history[:index])
        if "eval_runtime" in other and _entry(path, number, other, "step") > step - steps
    )
    if not 0 <= evaluated < seconds or steps <= 0:
        message = f"{seconds:g} s for {steps:g} steps and {evaluated:g} s of evaluation"
        key = ("log_history", index, "train_runtime")
        raise ConfigError(str(path), [Problem(key, f"{message}; expected more")])
    return LogRecord(int(step), 1e3 * (seconds - evaluated) / steps, index + 1)


def _entry(path: Path, index: int, item: Mapping[str, Any], key: str) -> float:
    value = _as_number(item.get(key))
    if value is None or value < 0:
        message = f"{_found(item.get(key))}; expected a number of 0 or more"
        raise ConfigError(str(path), [Problem(("log_history", index, key), message)])
    return value


WANDB_SPEEDS: dict[str, tuple[Unit, float]] = {
    "speed/wps": ("tokens_per_s_per_gpu", 1.0),  # lingua
    "speed/tokens_per_s": ("tokens_per_s", 1.0),  # this project's trainer
    "throughput(tps)": ("tokens_per_s_per_gpu", 1.0),  # torchtitan
    "train/tok_per_sec": ("tokens_per_s", 1.0),  # nanochat
    "train/dt": ("step_ms", 1e3),  # nanochat
    "time/step_s": ("step_ms", 1e3),  # this project's trainer
}
"""Metric in Weights & Biases -> its unit, and the factor to it."""

WANDB_STEPS = ("Step", "_step", "global_step", "trainer/global_step")
"""Columns with the step, in an export of a chart or of a run's history."""


def read_wandb(path: Path) -> TrainingLog:
    """Return the speeds in a CSV export of Weights & Biases, of one run.

    The columns of a chart are `RUN - METRIC`, and those with `__MIN` and `__MAX`.
    """
    table = read_csv(path)
    steps = [name for name in WANDB_STEPS if name in table.columns]
    if not steps:
        expected = " or ".join(f"'{name}'" for name in WANDB_STEPS)
        raise ConfigError(str(path), [f"no column with the step; expected {expected}"])
    speeds = [
        (metric, name) for name in table.columns for metric in WANDB_SPEEDS
        if name == metric or name.endswith(f" - {metric}")
    ]  # fmt: skip
    if not speeds:
        expected = ", ".join(WANDB_SPEEDS)
        raise ConfigError(str(path), [f"no column with a speed; expected RUN - one of {expected}"])
    metric = speeds[0][0]
    names = [name for other, name in speeds if other == metric]
    if len(names) > 1:
        runs = ", ".join(f"'{name}'" for name in names)
        raise ConfigError(str(path), [f"several runs, {runs}; expected an export of one"])
    unit, factor = WANDB_SPEEDS[metric]
    records = [
        LogRecord(_whole_or_zero(row, steps[0]), factor * row.number(names[0]), row.line)
        for row in table.rows
        if row.text(names[0])
    ]
    return TrainingLog(str(path), unit, mark_attempts(records), saves_unmarked=True)


def _whole_or_zero(row: CsvRow, name: str) -> int:
    return 0 if row.text(name) == "0" else row.whole(name)


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
    value = _as_number(data.get(key))
    if value is None:
        message = f"{_found(data.get(key))}; expected a number"
        raise ConfigError(str(path), [Problem((key,), message, line=line)])
    return value


def _whole(path: Path, line: int, key: str, value: float) -> int:
    if value != int(value) or value < 0:
        message = f"found {value:g}; expected a whole number of 0 or more"
        raise ConfigError(str(path), [Problem((key,), message, line=line)])
    return int(value)


def _found(value: Any) -> str:
    return "missing" if value is None else f"found {shorten(value)!r}"


def _as_number(value: Any) -> float | None:
    """Return a value from JSON as a float; None if it is no finite number of at most 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 2**63 else None
