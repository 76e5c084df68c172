"""What another trainer's log tells while it is being written: steps, losses, speeds, validation.

A value that the log does not have, or that cannot be read, is None: a malformed line of a log is no
reason to end a run.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from study.measure.line_logs import COLOURS, NANOCHAT, NANOGPT, TORCHTITAN, LineFormat
from study.trainers import LogConfig

Values = Mapping[str, float | None]
"""Values of a log, under the names of `study.trainers.LogField`."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An interval of training, which ends at a step."""

    step: int
    """Optimizer steps taken so far."""
    loss: float | None = None
    """Training loss, nats per token; NaN if the log says so."""
    rate: float | None = None
    """Learning rate."""
    grad_norm: float | None = None
    tokens: int | None = None
    """Tokens of all steps so far."""
    memory_gib: float | None = None
    """Peak memory of a GPU, GiB."""
    step_s: float | None = None
    """Time of a step, s: the interval's mean, or the last step's."""
    elapsed_s: float | None = None
    """Since a start of the trainer's own clock, s."""
    paused: bool = False
    """Its times include an evaluation or a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A validation."""

    step: int
    """Optimizer steps taken before it."""
    loss: float | None = None
    """Nats per token."""
    bits_per_byte: float | None = None


Event = Entry | Validation


@dataclass(frozen=True)
class Shape:
    """What of a run is needed to read speeds and steps."""

    tokens_per_step: int
    gpus: int


class LineReader:
    """Reads a log line by line."""

    def __init__(self, read: Callable[[str], Values | None], shape: Shape) -> None:
        """`read` returns the values in a line; None if it has none."""
        self._read, self._shape = read, shape
        self._last, self._paused = 0, False

    def feed(self, line: str) -> Iterator[Event]:
        """Yield what a line tells."""
        values = self._read(line)
        if values is None:
            return
        step = _count(values.get("step"))
        validation = values.get("validation_loss")
        bits = values.get("validation_bits_per_byte")
        if values.keys() >= {"pauses"}:
            self._paused = True
        if validation is not None or bits is not None:
            self._paused = True
            at = self._last if step is None else step
            yield Validation(step=at, loss=validation, bits_per_byte=bits)
        if step is None or not values.keys() - {"step", *NOT_OF_TRAINING}:
            return
        self._last = step
        yield make_entry(step, values, self._shape, self._paused)
        self._paused = False


NOT_OF_TRAINING = ("validation_loss", "validation_bits_per_byte", "pauses")
"""Values that do not make a line one of training."""


def make_entry(step: int, values: Values, shape: Shape, paused: bool = False) -> Entry:
    """Return an entry of the values in a log."""
    return Entry(
        step=step,
        loss=values.get("loss"),
        rate=values.get("lr"),
        grad_norm=values.get("grad_norm"),
        tokens=_count(values.get("tokens")),
        memory_gib=values.get("memory_gib"),
        step_s=_step_s(values, shape),
        elapsed_s=values.get("elapsed_s"),
        paused=paused,
    )


def _step_s(values: Values, shape: Shape) -> float | None:
    """Return the time of a step, s, from whichever speed a log has."""
    for name, factor in (("step_s", 1.0), ("step_ms", 1e-3)):
        value = values.get(name)
        if value is not None and 0 < value < float("inf"):
            return value * factor
    for name, gpus in (("tokens_per_s", 1), ("tokens_per_s_per_gpu", shape.gpus)):
        value = values.get(name)
        if value is not None and 0 < value < float("inf"):
            return shape.tokens_per_step / (value * gpus)
    return None


MOST = 2**40
"""Above all counts of steps; larger numbers are no counts."""


def _count(value: float | None) -> int | None:
    if value is None or not 0 <= value < MOST:
        return None
    return int(value) if value == int(value) else None


def to_number(text: str) -> float | None:
    """Return the number in a part of a line, such as `1,234.5`; None if it is none."""
    try:
        return float(text.replace(",", "").replace("_", ""))
    except ValueError:
        return None


def regex_lines(patterns: tuple[str, ...]) -> Callable[[str], Values | None]:
    """Return a reader of lines by regular expressions, whose named groups are values.

    Several may match the same line; each adds its values.
    """
    compiled = [re.compile(pattern) for pattern in patterns]

    def read(line: str) -> Values | None:
        text = COLOURS.sub("", line)
        found: dict[str, float | None] = {}
        for pattern in compiled:
            if match := pattern.search(text):
                found |= {k: to_number(v) for k, v in match.groupdict().items() if v is not None}
        return found or None

    return read


def json_lines(
    fields: Mapping[str, str], ignored: Callable[[Mapping[str, Any]], bool] = lambda data: False
) -> Callable[[str], Values | None]:
    """Return a reader of lines that are JSON objects. `fields`: value -> its key; one with dots is
    in an inner object, unless the object has the whole key. Other lines are skipped."""

    def read(line: str) -> Values | None:
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(data, dict) or ignored(data):
            return None
        found = {name: _at(data, key) for name, key in fields.items()}
        known = {name: value for name, value in found.items() if value is not None}
        return known or None

    return read


def _at(data: Mapping[str, Any], key: str) -> float | None:
    if key in data:
        return as_number(data[key])
    value: Any = data
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return as_number(value)


def as_number(value: Any) -> float | None:
    """Return a value of JSON as a number; None if it is none, or beyond 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if 2**63 <= abs(value) < float("inf") else float(value)


@dataclass(frozen=True)
class Printed:
    """What lines of a `LineFormat` tell besides the speed."""

    lines: LineFormat
    speed: str
    """The value that the group `speed` is."""
    fields: Mapping[str, re.Pattern[str]]
    """Value -> where it stands in a line of training."""
    validation: re.Pattern[str] | None = None
    """A line of a validation, with the groups `step` and `validation_loss` or
    `validation_bits_per_byte`."""
    first: int = 1
    """The number that the log gives to the first step."""

    def read(self, line: str) -> Values | None:
        """Return the values in a line."""
        text = COLOURS.sub("", line)
        if match := self.lines.training.search(text):
            found: dict[str, float | None] = {"step": int(match["step"]) + 1 - self.first}
            found[self.speed] = to_number(match["speed"])
            for name, pattern in self.fields.items():
                if value := pattern.search(text, match.start()):
                    found[name] = to_number(value[1])
            return found
        if self.validation is not None and (match := self.validation.search(text)):
            return {name: to_number(value) for name, value in match.groupdict().items()}
        if self.lines.pauses is not None and self.lines.pauses.search(text):
            return {"pauses": 1.0}
        return None


NUMBER = r"([-+\w.,]{1,30})"

PRINTED = {
    "torchtitan": Printed(
        TORCHTITAN,
        speed="tokens_per_s_per_gpu",
        fields={
            "loss": re.compile(rf"\bloss: *{NUMBER}"),
            "grad_norm": re.compile(rf"\bgrad_norm: *{NUMBER}"),
            "memory_gib": re.compile(r"\bmemory: *([\d.]{1,20})GiB"),
        },
        validation=re.compile(
            r"\bvalidate step: *(?P<step>\d{1,15})\s+loss: *(?P<validation_loss>[-+\w.]{1,30})"
        ),
    ),
    "nanogpt": Printed(
        NANOGPT,
        speed="step_ms",
        fields={"loss": re.compile(rf"\bloss {NUMBER}, time")},
        validation=re.compile(
            r"\bstep (?P<step>\d{1,15}): train loss \S{1,30}, "
            r"val loss (?P<validation_loss>[-+\w.]{1,30})"
        ),
        first=0,
    ),
    "nanochat": Printed(
        NANOCHAT,
        speed="step_ms",
        fields={"loss": re.compile(rf"\bloss: *{NUMBER}")},
        validation=re.compile(
            r"\bStep (?P<step>\d{1,15}) \| Validation bpb: *"
            r"(?P<validation_bits_per_byte>[\d.]{1,30})"
        ),
        first=0,
    ),
}

LINGUA = {
    "step": "global_step",
    "loss": "loss/out",
    "lr": "optim/lr",
    "grad_norm": "optim/grad_norm",
    "tokens": "optim/total_tokens",
    "tokens_per_s_per_gpu": "speed/wps",
    "memory_gib": "memory/max_reserved_gib",
}


def _within_a_step(data: Mapping[str, Any]) -> bool:
    """Whether a record of lingua is of some micro-batches of a step, with `logging.acc_freq`."""
    return bool(data.get("acc_step"))


def line_reader(log: LogConfig, shape: Shape) -> LineReader | None:
    """Return the reader of a format whose log grows by lines; None for another format."""
    if log.format in PRINTED:
        return LineReader(PRINTED[log.format].read, shape)
    if log.format == "lingua":
        return LineReader(json_lines(LINGUA, _within_a_step), shape)
    if log.format == "regex":
        return LineReader(regex_lines(log.patterns), shape)
    if log.format == "json":
        return LineReader(json_lines({str(k): v for k, v in log.fields.items()}), shape)
    return None


def marks_pauses(log: LogConfig) -> bool:
    """Return whether a log says in which intervals checkpoints were saved."""
    return log.format in PRINTED


def read_whole(log: LogConfig, text: str, shape: Shape) -> list[Event]:
    """Return what the content of a log tells that is replaced as a whole; nothing if it is
    incomplete."""
    if log.format == "trainer_state":
        return list(_of_trainer_state(text, shape))
    assert log.format == "litgpt", log.format
    return list(_of_litgpt(text, shape))


def _of_trainer_state(text: str, shape: Shape) -> Iterator[Event]:
    """Yield the entries of a trainer_state.json of Hugging Face's Trainer."""
    try:
        history = json.loads(text)["log_history"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    paused = False
    for item in history if isinstance(history, list) else ():
        step = _count(_at(item, "step")) if isinstance(item, dict) else None
        if step is None:
            continue
        if (loss := _at(item, "eval_loss")) is not None:
            yield Validation(step=step, loss=loss)
            paused = True
        elif "loss" in item:
            values = {
                "loss": as_number(item["loss"]),
                "lr": _at(item, "learning_rate"),
                "grad_norm": _at(item, "grad_norm"),
                "elapsed_s": _at(item, "train_runtime"),
            }
            yield make_entry(step, values, shape, paused)
            paused = False


def _of_litgpt(text: str, shape: Shape) -> Iterator[Event]:
    """Yield the rows of the metrics.csv of litgpt's pretrain.

    Its `step` is Fabric's: the number of micro-batches before, whatever litgpt counts. So steps
    follow from `total_tokens`, which are those of all GPUs.
    """
    last, tokens_per_iter, paused = 0, 0.0, False
    lines = text.splitlines()
    if text and not text.endswith("\n"):
        lines.pop()  # being written
    for row in csv.DictReader(lines):
        values = {name: to_number(row.get(column) or "") for name, column in LITGPT.items()}
        iterations, total = to_number(row.get("iter") or ""), values["tokens"]
        validation = values.pop("validation_loss")
        if validation is not None:
            before = to_number(row.get("step") or "")
            tokens = None if before is None else (before + 1) * tokens_per_iter
            step = int(tokens / shape.tokens_per_step + 1e-6) if tokens else last
            yield Validation(step=step, loss=validation)
            paused = True
        if not iterations or not total:
            continue
        tokens_per_iter = total / iterations
        last = round(total / shape.tokens_per_step)
        entry = make_entry(last, values, shape, paused)
        seconds = to_number(row.get("iter_time") or "")
        if entry.elapsed_s is None and seconds:
            entry = replace(entry, step_s=seconds * shape.tokens_per_step / tokens_per_iter)
        yield entry
        paused = False


LITGPT = {
    "loss": "loss",
    "lr": "learning_rate",
    "tokens": "total_tokens",
    "elapsed_s": "time",
    "validation_loss": "val_loss",
}
