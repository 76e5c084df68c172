"""The formats of other trainers' logs, by name, and how each is read: as evidence, and while the
trainer of a cell writes it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from study.grid import Cell
from study.measure.described_logs import json_lines, regex_lines
from study.measure.entries import LineReader, Lines, Shape, Whole, WholeReader
from study.measure.line_logs import NANOCHAT, NANOGPT, TORCHTITAN, LineFormat, read_lines
from study.measure.lingua_log import lingua_values, read_lingua
from study.measure.litgpt_log import litgpt_events, read_litgpt
from study.measure.trainer_state import read_trainer_state, trainer_state_events
from study.measure.training_log import SteadySteps, TrainingLog, steady_steps
from study.measure.wandb_export import read_wandb
from study.trainers import LogConfig
from trainer.problems import ConfigError


@dataclass(frozen=True)
class LogFormat:
    """A format of logs."""

    read: Callable[[Path], TrainingLog]
    """Returns the speeds in a file, as evidence. Raises ConfigError."""
    recognise: Callable[[str], bool]
    """Whether a line of a file shows that it has this format."""
    example: str
    """What a file of this format contains, for messages."""
    live: Lines | Whole | None = None
    """How it is read while it is written, for a name in `KnownLog`; None: it is only evidence."""


def _of_lines(lines: LineFormat) -> LogFormat:
    example = f"lines such as '{lines.example}'"
    live = Lines(lines.values, marks_saves=True)
    return LogFormat(lines.read, lines.recognise, example, live)


FORMATS: dict[str, LogFormat] = {
    "lingua": LogFormat(
        read_lingua,
        lambda line: '"global_step"' in line and '"speed/wps"' in line,
        "metrics.jsonl with global_step and speed/wps",
        Lines(lingua_values),
    ),
    "torchtitan": _of_lines(TORCHTITAN),
    "nanogpt": _of_lines(NANOGPT),
    "nanochat": _of_lines(NANOCHAT),
    "litgpt": LogFormat(
        read_litgpt,
        lambda line: "iter_time" in line and "total_tokens" in line,
        "metrics.csv with iter, total_tokens and iter_time",
        Whole(litgpt_events),
    ),
    "trainer_state": LogFormat(
        read_trainer_state,
        lambda line: '"log_history"' in line,
        "a trainer_state.json",
        Whole(trainer_state_events),
    ),
    "wandb": LogFormat(
        read_wandb,
        lambda line: line.lstrip('"').startswith("Step") and " - " in line,
        "a CSV export of a run's speed",
    ),
}
"""Name in a study's `evidence` and in a trainer's `log.format` -> format."""

SEARCHED = 2000
"""Lines in which another format is looked for."""


def live_format(log: LogConfig) -> Lines | Whole:
    """Return how the log of a cell's trainer, other than ours, is read while it is written."""
    if log.format == "regex":
        return Lines(regex_lines(log.patterns), steps_alone=True)
    if log.format == "json":
        return Lines(json_lines({str(name): key for name, key in log.fields.items()}))
    live = FORMATS[log.format].live
    assert live is not None, f"{log.format} is in KnownLog"
    return live


def live_reader(log: LogConfig, shape: Shape) -> LineReader | WholeReader:
    """Return a reader of such a log."""
    live = live_format(log)
    return LineReader(live, shape) if isinstance(live, Lines) else WholeReader(live, shape)


def read_steady_steps(name: str, path: Path, cell: Cell) -> SteadySteps:
    """Return the steady steps in a log of a cell.

    Raises ConfigError if it is malformed or has none; the error names the format that it seems to
    have.
    """
    try:
        steps = steady_steps(FORMATS[name].read(path), cell)
    except ConfigError as error:
        raise with_hint(error, name, path) from None
    if not steps.times_s:
        problem = f"found no steady step; expected {FORMATS[name].example}, two or more"
        raise with_hint(ConfigError(str(path), [problem]), name, path)
    return steps


def with_hint(error: ConfigError, name: str, path: Path) -> ConfigError:
    """Return an error of reading a file as format `name`; if it seems to have another, say so."""
    other = _other_format(name, path)
    if other is None:
        return error
    first = error.problems[0]
    return ConfigError(error.source, [replace(first, message=f"{first.message}; {other}")])


def _other_format(name: str, path: Path) -> str | None:
    """Return which other format a file has, if a line of it shows so and none shows this one."""
    found = None
    try:
        for number, line in read_lines(path):
            if number > SEARCHED or (name in FORMATS and FORMATS[name].recognise(line)):
                break
            for other, kind in FORMATS.items():
                if found is None and kind.recognise(line):
                    found = f"line {number} looks like the format '{other}'"
    except ConfigError:
        return None
    return found
