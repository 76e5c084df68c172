"""trainer.json: what the job of another trainer needs to start it and to write the run's files."""

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, PositiveInt

from study.files import open_text
from study.rendering import DESCRIPTION
from study.trainers import LogConfig, StopSignal
from trainer.json_files import parse_json
from trainer.problems import ConfigError
from trainer.records import UsedChoices, Written
from trainer.settings import validate


class RenderedConfig(Written):
    """The trainer's own config."""

    file: str
    """Its path."""
    text: str
    """Its content."""


class ForeignJob(Written):
    """The content of trainer.json."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    trainer: str
    """Its name in trainers.yaml."""
    version: str | None = None
    """Its version or commit."""
    workdir: str | None = None
    """Folder to start it in; None for the present one."""
    config: RenderedConfig | None = None
    environment: dict[str, str] = Field(default={})
    """Variables to add for the command."""
    log: LogConfig
    """Its log; `file` without placeholders."""
    resumes: bool = False
    """Whether the same command, started again, goes on from its newest checkpoint."""
    stop_signal: StopSignal = "SIGTERM"
    """The signal that asks it to stop."""
    fingerprint: str
    """Fingerprint of the cell."""
    name: str = "run"
    """Display name."""
    params: PositiveInt
    """Parameters of the model, counted from its shape."""
    tokens_per_step: PositiveInt
    """Tokens of an optimizer step of all GPUs."""
    steps: PositiveInt
    """Steps of the run."""
    gpus: PositiveInt
    nodes: PositiveInt = 1
    device: Literal["cuda", "cpu"]
    gpu_name: str | None = None
    """The GPU that the cluster names; None if it names none."""
    choices: UsedChoices = UsedChoices()
    """What is known of how it computes."""
    saves: tuple[PositiveInt, ...] = ()
    """Steps between checkpoints, for each kind of checkpoint."""


def read_job(folder: Path) -> ForeignJob:
    """Return the trainer.json in a run's folder. Raises ConfigError."""
    path = folder / DESCRIPTION
    with open_text(path) as file:
        try:
            data = parse_json(file.read())
        except ValueError as error:
            raise ConfigError(str(path), [f"not valid JSON: {error}"]) from None
    return validate(ForeignJob, data, str(path))
