"""Descriptions of trainers: how one is started, configured and read. `Study.trainers` holds them.

A trainer whose `log.format` is `ours` reads settings.yaml and writes the run's folder itself. Any
other is started by study/jobs/foreign_run.py, which writes the folder from its log.
"""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from study.value_types import Command, as_list, split_words
from trainer.other_names import names
from trainer.paths import FilePath
from trainer.problems import RuleError
from trainer.settings import Settings, Text, suggest

DEFAULT_TRAINER = "ours"
"""The trainer of a block that names none. Its name is not part of a cell's, as that of the variant
`base` is not."""

ReplacedLog = Literal["litgpt", "trainer_state"]
"""Logs that are files, which are replaced as a whole whenever something is added."""

KnownLog = Literal["lingua", "torchtitan", "nanogpt", "nanochat", ReplacedLog]
"""Logs of other trainers that are read without a description: of cells, and as `evidence`."""

LogFormat = Literal["ours", KnownLog, "regex", "json"]

LogField = Literal[
    "step",
    "loss",
    "lr",
    "grad_norm",
    "tokens_per_s",
    "tokens_per_s_per_gpu",
    "step_s",
    "step_ms",
    "tokens",
    "elapsed_s",
    "memory_gib",
    "validation_loss",
]
"""What a regular expression or a mapping finds in a log. step: optimizer steps taken; tokens: those
of all steps so far; elapsed_s: since the start."""


StopSignal = Literal["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"]
"""Signals that trainers take as a request to save and stop."""


def _as_template(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")]

Patterns = Annotated[tuple[str, ...], BeforeValidator(as_list)]


class LogConfig(Settings):
    """Where a trainer's log is, and how it is read."""

    format: LogFormat
    """ours: the trainer writes metrics.jsonl and run.json itself; regex and json: described by
    `patterns` or `fields`; the others: the log of that trainer, as in `evidence`."""
    file: Text | None = None
    """Path of the log, with {placeholders}; a relative one is in `workdir`. null: what the trainer
    prints."""
    patterns: Patterns = ()
    """regex: regular expressions with named groups, such as `it (?P<step>[0-9]+)`, searched in each
    line. Lines that match none are skipped."""
    fields: dict[LogField, Text] = Field(default={})
    """json: what is read -> its key in each line's object; a dotted key is one in an inner
    object."""

    @model_validator(mode="after")
    def _is_described(self) -> "LogConfig":
        for key, kind in (("patterns", "regex"), ("fields", "json")):
            if self.format == kind and not getattr(self, key):
                raise RuleError([key, "format"], f"missing; format {kind} needs it")
            if self.format != kind and getattr(self, key):
                raise RuleError([key, "format"], f"only for format {kind}; found {self.format}")
        if self.format in get_args(ReplacedLog) and self.file is None:
            raise RuleError(["file", "format"], f"missing; format {self.format} is of a file")
        groups: set[str] = set()
        for pattern in self.patterns:
            try:
                groups |= re.compile(pattern).groupindex.keys()
            except re.error as error:
                raise RuleError(["patterns"], f"'{pattern}': {error}") from None
        unknown = sorted(groups - set(get_args(LogField)))
        if unknown:
            message = f"unknown group '{unknown[0]}'; {suggest(unknown[0], get_args(LogField))}"
            raise RuleError(["patterns"], message)
        for key, found in (("patterns", groups), ("fields", set(self.fields))):
            if getattr(self, key) and "step" not in found:
                raise RuleError([key], "nothing is named step; expected the number of steps taken")
        return self


class TemplateConfig(Settings):
    """A template of a trainer's own config."""

    file: Text
    """Its path. A relative one is in the folder of the file that names it."""
    text: str | None = None
    """Its content. The workflow sets it, so that study.yaml is complete by itself."""


class VersionConfig(Settings):
    """Where the version of a trainer is found."""

    package: Text | None = None
    """Name of an installed package."""
    command: Text | None = None
    """Shell command that prints it, run in `workdir`."""

    @model_validator(mode="after")
    def _has_one(self) -> "VersionConfig":
        if (self.package is None) == (self.command is None):
            raise RuleError(["package", "command"], "expected one of package and command")
        return self


class TrainerConfig(Settings):
    """How a trainer is started, configured and read."""

    other_names: ClassVar[Mapping[str, str]] = names(
        {
            "workdir": "cwd dir directory folder repo",
            "launcher": "launch command cmd",
            "config": "template config_file",
            "arguments": "args argv flags options",
            "environment": "env variables",
            "cannot": "unsupported not_supported lacks",
            "resumes": "resume can_resume",
        }
    )

    workdir: FilePath | None = None
    """Folder to start it in, such as a clone of its repository; null: the folder of this study."""
    setup: tuple[str, ...] = ()
    """Shell lines to run before its command, such as `source ~/litgpt/bin/activate`."""
    launcher: Command = "torchrun"
    """What starts its processes, such as `uv run torchrun`; torchrun's options are added. none: the
    trainer starts them itself, or is one process."""
    module: Text | None = None
    """Python module to start, `-m`."""
    script: Command | None = None
    """Script to start, instead of a module; without a launcher, any program."""
    config: Annotated[
        TemplateConfig | None,
        BeforeValidator(_as_template, json_schema_input_type=str | TemplateConfig | None),
    ] = None
    """Template of its own config: the cell's values stand in it, such as `{{ seq_len }}`. The
    rendered file is config.SUFFIX in the run's folder, with the template's suffix."""
    arguments: tuple[str, ...] = ()
    """Arguments after the module or script, with {placeholders}: the names of a template, and
    {config}, the path of the rendered one."""
    environment: dict[Variable, str] = Field(default={})
    """Environment variables of the command, with {placeholders}."""
    log: LogConfig
    """Its log."""
    resumes: bool = False
    """Whether the same command, started again, goes on from its newest checkpoint. false: it begins
    again from step 0."""
    stop_signal: StopSignal = "SIGTERM"
    """The signal that asks it to save and stop, before the time limit of a job. SIGUSR2 for
    lingua."""
    cannot: tuple[str, ...] = ()
    """What it cannot do: keys of a run.yaml, such as tp_size, that have to be at their default, or
    accumulation, strong_scaling, several_nodes, several_gpus, validation. Cells that need it are
    refused."""
    version: Literal["git"] | VersionConfig | None = None
    """Where its version is found: git, the commit of `workdir` and what was changed since in files
    that git tracks; {package: NAME}; or {command: LINE}."""
    found_version: str | None = None
    """The version. The workflow sets it when the study is planned."""

    @property
    def is_native(self) -> bool:
        """Whether it reads settings.yaml and writes the run's folder itself."""
        return self.log.format == "ours"

    @property
    def program(self) -> list[str]:
        """The words for the module or script in a command."""
        if self.module is not None:
            return ["-m", self.module]
        assert self.script is not None
        return split_words(self.script)

    @property
    def config_name(self) -> str | None:
        """Name of the rendered config in the run's folder; None without a template."""
        if self.config is None:
            return None
        return f"config{PurePath(self.config.file.removesuffix('.j2')).suffix}"

    @model_validator(mode="after")
    def _has_a_program(self) -> "TrainerConfig":
        if (self.module is None) == (self.script is None):
            raise RuleError(["module", "script"], "expected one of module and script")
        return self


OURS = TrainerConfig.model_validate(
    {
        "module": "trainer",
        "arguments": ["config={settings}"],
        "log": {"format": "ours"},
        "resumes": True,
    }
)
"""The trainer of a study without descriptions."""
