"""Logs that print a line for each interval: torchtitan, nanoGPT, nanochat.

Colours, timestamps and the prefixes of launchers are ignored. Of several ranks that print, the
lowest counts.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from study.files import open_text
from study.measure.log_values import Values, to_number
from study.measure.training_log import Covered, LogRecord, TrainingLog, Unit, mark_attempts
from trainer.problems import ConfigError, unreadable

COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

RANK = re.compile(r"\[[a-zA-Z_]+(\d{1,9})\]|\[\d{1,9},(\d{1,9})\]<std|^ *(\d{1,9}): ", re.ASCII)
"""A rank before a line, as torchrun (`[default0]:`), mpirun (`[1,0]<stdout>:`) and srun (`0: `)
write it."""

LONGEST = 1 << 16
"""Characters of a line that are searched at once; a longer line is searched in pieces."""


@dataclass(frozen=True)
class LineFormat:
    """How a trainer prints its steps."""

    unit: Unit
    training: re.Pattern[str]
    """An interval of training; with the groups `step` and `speed`, and `tokens_per_s` of all GPUs
    if the line has it beside the time of a step."""
    example: str
    covers: Covered
    starts: re.Pattern[str] | None = None
    """A line that every attempt prints before its first interval."""
    pauses: re.Pattern[str] | None = None
    """A line before an interval that includes an evaluation or a checkpoint."""
    fields: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    """Value -> where it stands in a line of training."""
    validation: re.Pattern[str] | None = None
    """A line of a validation, with the groups `step` and `validation_loss` or
    `validation_bits_per_byte`."""
    first: int = 1
    """The number that the log gives to the first step."""

    def recognise(self, line: str) -> bool:
        """Return whether a line is one of this format."""
        return self.training.search(COLOURS.sub("", line)) is not None

    def read(self, path: Path) -> TrainingLog:
        """Return the speeds in a log. Raises ConfigError if it cannot be read."""
        found = list(self._records(path))
        lowest = min((rank for rank, *_ in found if rank is not None), default=None)
        ours = [(record, tokens) for rank, record, tokens in found if rank in (None, lowest)]
        records = mark_attempts(record for record, _ in ours)
        tokens = [count for _, count in ours if count is not None]
        of_step = tokens[-1] if tokens else None
        return TrainingLog(str(path), self.unit, records, of_step, covers=self.covers)

    def _records(self, path: Path) -> Iterator[tuple[int | None, LogRecord, float | None]]:
        """Yield the rank, the record and the tokens per step of each interval, in file order."""
        started: set[int | None] = set()
        paused: set[int | None] = set()
        for number, line in read_lines(path):
            text = COLOURS.sub("", line)
            match = self.training.search(text)
            if match is None:
                if self.starts is not None and (start := self.starts.search(text)):
                    started.add(_rank(text[: start.start()]))
                elif self.pauses is not None and (pause := self.pauses.search(text)):
                    paused.add(_rank(text[: pause.start()]))
                continue
            rank = _rank(text[: match.start()])
            step, speed = int(match["step"]), _number(path, number, match["speed"])
            tokens = None
            if "tokens_per_s" in self.training.groupindex and match["tokens_per_s"]:
                tokens = _number(path, number, match["tokens_per_s"]) * speed / 1e3
            yield rank, LogRecord(step, speed, number, rank in started, rank in paused), tokens
            started.discard(rank)
            paused.discard(rank)

    def values(self, line: str) -> Values | None:
        """Return the values in a line; None if it has none."""
        text = COLOURS.sub("", line)
        if match := self.training.search(text):
            found: dict[str, float | None] = {"step": int(match["step"]) + 1 - self.first}
            found[self.unit] = to_number(match["speed"])
            for name, pattern in self.fields.items():
                if value := pattern.search(text, match.start()):
                    found[name] = to_number(value[1])
            return found
        if self.validation is not None and (match := self.validation.search(text)):
            return {name: to_number(value) for name, value in match.groupdict().items()}
        marks = (self.starts, self.pauses)
        return {"pauses": 1.0} if any(mark and mark.search(text) for mark in marks) else None


def _rank(prefix: str) -> int | None:
    match = RANK.search(prefix)
    return None if match is None else int(next(filter(None, match.groups())))


def _number(path: Path, line: int, text: str) -> float:
    found = to_number(text)
    if found is None:
        raise ConfigError(str(path), [f"line {line}: '{text}' is not a number"])
    return found


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a log with their numbers, from 1; a long one in pieces.

    Bytes that are not text are replaced. Raises ConfigError if the file cannot be read.
    """
    with open_text(path, errors="replace") as file:
        number = 1
        try:
            while line := file.readline(LONGEST):
                yield number, line
                number += line.endswith("\n")
        except (OSError, UnicodeError) as error:
            raise unreadable(path, error) from None


NUMBER = r"([-+\w.,]{1,30})"
"""A number in a line, as a group; what is not one is found when it is read."""

TORCHTITAN = LineFormat(
    # Tokens/s of one GPU, the mean since the line before; validation sets the clock back.
    unit="tokens_per_s_per_gpu",
    training=re.compile(
        r"(?<!validate )\bstep: *(?P<step>\d{1,15})\s.{0,400}?\btps: *(?P<speed>[\d,.]{1,30})",
        re.ASCII,
    ),
    example="step: 10  loss: 7.12  ...  tps: 6,123  ...",
    covers="interval",
    starts=re.compile(r"Training starts at step \d"),
    pauses=re.compile(r"(Saving|Staging) (the|a) .{0,80}?checkpoint"),
    fields={
        "loss": re.compile(rf"\bloss: *{NUMBER}"),
        "grad_norm": re.compile(rf"\bgrad_norm: *{NUMBER}"),
        "memory_gib": re.compile(r"\bmemory: *([\d.]{1,20})GiB"),
    },
    validation=re.compile(
        r"\bvalidate step: *(?P<step>\d{1,15})\s+loss: *(?P<validation_loss>[-+\w.]{1,30})"
    ),
)

NANOGPT = LineFormat(
    # The time of this one iteration of all GPUs, with the evaluation and save before it.
    unit="step_ms",
    training=re.compile(
        r"\biter (?P<step>\d{1,15}): loss \S{1,30}, time (?P<speed>[\d.]{1,30})ms", re.ASCII
    ),
    example="iter 10: loss 3.1234, time 123.45ms, mfu 30.12%",
    covers="step",
    starts=re.compile(r"\btokens per iteration will be:"),
    pauses=re.compile(r"\bstep \d+: train loss "),
    fields={"loss": re.compile(rf"\bloss {NUMBER}, time")},
    validation=re.compile(
        r"\bstep (?P<step>\d{1,15}): train loss \S{1,30}, "
        r"val loss (?P<validation_loss>[-+\w.]{1,30})"
    ),
    first=0,
)

NANOCHAT = LineFormat(
    # The time of this one step of all GPUs, without evaluations, samples and saves.
    unit="step_ms",
    training=re.compile(
        r"\bstep (?P<step>\d{1,15})(/\d+)? \(.{0,12}?\) \| loss: .{0,200}?"
        r"\bdt: *(?P<speed>[\d.,]{1,30})ms( \| tok/sec: *(?P<tokens_per_s>[\d,]{1,30}))?",
        re.ASCII,
    ),
    example="step 00010/21400 (0.05%) | loss: 8.89 | ... | dt: 989.44ms | tok/sec: 529,882 | ...",
    covers="step",
    starts=re.compile(r"Tokens / micro-batch / rank:"),
    fields={"loss": re.compile(rf"\bloss: *{NUMBER}")},
    validation=re.compile(
        r"\bStep (?P<step>\d{1,15}) \| Validation bpb: *"
        r"(?P<validation_bits_per_byte>[\d.]{1,30})"
    ),
    first=0,
)
