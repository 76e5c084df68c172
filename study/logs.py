"""What runs left in their folders, read back: run.json, metrics.jsonl and metrics.eval.jsonl.

A run may be going on, or may have been killed while it wrote: a torn last line is passed over.
Anything else that is not as the trainer writes it is a ConfigError that names file, line and key.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from study.grid import Cell, Grid
from trainer.problems import ConfigError
from trainer.settings import Settings, validate

Status = Literal["running", "completed", "preempted", "failed"]


class _Facts(Settings):
    """What a trainer wrote. Keys that the study does not use may stand beside these."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class Startup(_Facts):
    """Where the start of an attempt went."""

    total_s: NonNegativeFloat | None = None
    """From the start of the process to the end of its first step, s."""


class Attempt(_Facts):
    """One process that worked on a run; a run that was interrupted has several."""

    attempt: PositiveInt
    """1, 2, ..."""
    start: str
    """When it started, ISO 8601."""
    end: str | None = None
    """When it ended; None while it runs, or where it was killed."""
    wall_s: NonNegativeFloat | None = None
    """How long it ran, s; None while it runs, or where it was killed."""
    fingerprint: str
    """Fingerprint of its settings."""
    startup: Startup = Startup()
    """Where its start went."""
    compiled_from: PositiveInt | None = None
    """First step with compiled blocks; None: all were eager."""


class Versions(_Facts):
    """Software of a run."""

    python: str | None = None
    """Version of Python."""
    torch: str | None = None
    """Version of PyTorch."""
    cuda: str | None = None
    """Version of CUDA; None on a CPU."""


class RunSummary(_Facts):
    """run.json: the account that a run gives of itself."""

    status: Status
    """Where the run stands."""
    outcome: Literal["trained", "diverged"] | None = None
    """How a completed run ended: all its steps, or a loss that is not finite."""
    params: PositiveInt
    """Parameters, as the run counted them."""
    gpu_name: str | None = None
    """GPU, or processor, as the machine names it."""
    hosts: tuple[str, ...] = ()
    """Machines of the last attempt."""
    versions: Versions = Versions()
    """Software of the last attempt."""
    commit: str | None = None
    """Git commit of the trainer."""
    trainer_version: str | None = None
    """Hash of the trainer's sources."""
    fingerprint: str
    """Fingerprint of the settings of the last attempt."""
    attempts: Annotated[list[Attempt], Field(min_length=1)]
    """All attempts, in order."""
    peak_memory_gib: NonNegativeFloat | None = None
    """Peak memory of one process, GiB."""
    loss_validation: float | None = None
    """Last validation loss, nats per token."""
    steps_done: NonNegativeInt = 0
    """Last step that was recorded."""


class Failure(_Facts):
    """failure.json: what the last attempt died of."""

    message: str
    """Which rank failed, of what, and what helps where that is known."""
    retry: bool
    """Whether another attempt, with the same settings, may end otherwise."""


class Record(_Facts):
    """One line of metrics.jsonl: an interval of steps."""

    step: Annotated[PositiveInt, Field(alias="global_step")]
    """Step at the interval's end."""
    loss: Annotated[float | None, Field(alias="loss/out")]
    """Training loss of that step, nats per token; None where it was not finite."""
    tokens: Annotated[PositiveInt, Field(alias="optim/total_tokens")]
    """Tokens since the start of the run."""
    elapsed_s: Annotated[NonNegativeFloat, Field(alias="time/elapsed_s")]
    """Seconds since the start of the run, earlier attempts included."""
    step_s: Annotated[NonNegativeFloat, Field(alias="time/step_s")]
    """Mean time of a step in the interval, checkpoints and evaluations taken out, s."""
    interval_steps: Annotated[PositiveInt, Field(alias="time/interval_steps")]
    """Steps of the interval."""
    attempt: PositiveInt
    """The attempt that wrote it."""


class Evaluation(_Facts):
    """One line of metrics.eval.jsonl."""

    step: Annotated[PositiveInt, Field(alias="global_step")]
    """Step after which the held-out text was read."""
    loss: Annotated[float | None, Field(alias="eval/loss")]
    """Validation loss, nats per token; None where it was not finite."""
    elapsed_s: Annotated[NonNegativeFloat | None, Field(alias="time/elapsed_s")] = None
    """Seconds since the start of the run, earlier attempts included."""


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


FactsT = TypeVar("FactsT", Record, Evaluation)


def read_summary(folder: str | Path) -> RunSummary | None:
    """Return what a run's run.json says; None where no run was started."""
    path = Path(folder, "run.json")
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
        return Failure.model_validate_json(Path(folder, "failure.json").read_bytes())
    except (OSError, ValueError):
        return None


def read_run(folder: str | Path) -> Run | None:
    """Return what stands in a run's folder; None where no run was started."""
    summary = read_summary(folder)
    if summary is None:
        return None
    records = tuple(_read_lines(Path(folder, "metrics.jsonl"), Record))
    evaluations = tuple(_read_lines(Path(folder, "metrics.eval.jsonl"), Evaluation))
    return Run(summary=summary, records=records, evaluations=evaluations)


def is_stale(cell: Cell, summary: RunSummary) -> bool:
    """Say whether a run was made with other settings than its cell has now."""
    return summary.fingerprint != cell.run.fingerprint(cell.gpus)


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


def _read_lines(path: Path, cls: type[FactsT]) -> Iterator[FactsT]:
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
