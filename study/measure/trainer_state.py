"""The trainer_state.json of Hugging Face's Trainer."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from study.files import open_text
from study.measure.entries import Event, Shape, Validation, count, make_entry
from study.measure.log_values import as_number, describe_value, value_at
from study.measure.training_log import LogRecord, TrainingLog
from trainer.problems import ConfigError, Problem


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
    return TrainingLog(str(path), "step_ms", records, covers="interval")


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
    return LogRecord(int(steps), 1e3 * (seconds - evaluated) / steps, index + 1)


def _entry(path: Path, index: int, item: Mapping[str, Any], key: str) -> float:
    value = as_number(item.get(key))
    if value is None or not math.isfinite(value) or value < 0:
        message = f"{describe_value(item.get(key))}; expected a number of 0 or more"
        raise ConfigError(str(path), [Problem(("log_history", index, key), message)])
    return value


def trainer_state_events(text: str, shape: Shape) -> Iterator[Event]:
    """Yield the entries of a trainer_state.json of Hugging Face's Trainer."""
    try:
        history = json.loads(text)["log_history"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    paused = False
    for item in history if isinstance(history, list) else ():
        step = count(value_at(item, "step")) if isinstance(item, dict) else None
        if step is None:
            continue
        if (loss := value_at(item, "eval_loss")) is not None:
            yield Validation(step=step, loss=loss)
            paused = True
        elif "loss" in item:
            values = {
                "loss": as_number(item["loss"]),
                "lr": value_at(item, "learning_rate"),
                "grad_norm": value_at(item, "grad_norm"),
                "elapsed_s": value_at(item, "train_runtime"),
            }
            yield make_entry(step, values, shape, paused)
            paused = False
