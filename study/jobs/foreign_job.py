"""trainer.json: what the job of another trainer needs to start it and to write the run's files."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from study.files import open_text
from study.grid import Cell
from study.templates import render_config
from study.terms import TERMS
from study.trainer_command import environment, log_file
from study.trainers import LogConfig, StopSignal
from trainer.files import write_atomically
from trainer.json_files import parse_json
from trainer.problems import ConfigError
from trainer.records import UsedChoices
from trainer.settings import Settings, validate

DESCRIPTION = "trainer.json"
"""Its name in the run's folder."""


class RenderedConfig(Settings):
    """The trainer's own config."""

    file: str
    """Its path."""
    text: str
    """Its content."""


class ForeignJob(Settings):
    """The content of trainer.json."""

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
    """Words in the name of its GPUs; None: any."""
    choices: UsedChoices = UsedChoices()
    """What is known of how it computes."""
    saves_every: PositiveInt | None = None
    """Steps between its checkpoints, as a template's `checkpoint_every` asks for them; None: it is
    to save only at the end."""


def describe_job(cell: Cell) -> ForeignJob:
    """Return what the job of a cell needs to know. Raises ConfigError, see `render_config`."""
    placed, run, trainer = cell.placed, cell.run, cell.trainer_config
    text, name = render_config(placed), trainer.config_name
    return ForeignJob(
        trainer=cell.trainer,
        version=trainer.found_version,
        workdir=trainer.workdir,
        config=None
        if text is None or name is None
        else RenderedConfig(file=placed.path(run.dump_dir, name), text=text),
        environment=environment(placed),
        log=trainer.log.model_copy(update={"file": log_file(placed)}),
        resumes=trainer.resumes,
        stop_signal=trainer.stop_signal,
        fingerprint=cell.fingerprint,
        name=run.name,
        params=cell.params,
        tokens_per_step=cell.tokens_per_step,
        steps=run.steps,
        gpus=cell.gpus,
        nodes=cell.nodes,
        device=run.device,
        gpu_name=run.gpu_name,
        choices=UsedChoices(model_dtype=TERMS["dtype"](placed), compiled=cell.compiled),
        saves_every=run.checkpoint and run.checkpoint.dump.every,
    )


def write_job(cell: Cell) -> None:
    """Write a cell's trainer.json and its trainer's own config. Raises ConfigError."""
    job = describe_job(cell)
    if job.config is not None:
        write_atomically(Path(job.config.file), job.config.text)
    text = job.model_dump_json(indent=2, exclude_none=True) + "\n"
    write_atomically(Path(cell.folder, DESCRIPTION), text)


def read_job(folder: Path) -> ForeignJob:
    """Return the trainer.json in a run's folder. Raises ConfigError."""
    path = folder / DESCRIPTION
    with open_text(path) as file:
        try:
            data = parse_json(file.read())
        except ValueError as error:
            raise ConfigError(str(path), [f"not valid JSON: {error}"]) from None
    return validate(ForeignJob, data, str(path))
