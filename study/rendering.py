"""A cell's values in the words of its trainer: the rendered config, the command and the identity.

Templates are Jinja's. Their names, and those of `{placeholders}` in arguments, are the field's:
`TERMS`.
"""

import functools
import re
import shlex
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.cluster_config import ClusterConfig
from study.trainers import TemplateConfig, TrainerConfig
from trainer.config import DataConfig, OptimConfig, RunConfig, digest
from trainer.execution.choices import is_compiled
from trainer.flops import count_parameters
from trainer.problems import ConfigError, KeyPath, Problem
from trainer.settings import suggest

SETTINGS_FILE = "settings.yaml"
"""A cell's complete settings in its run's folder, written when Snakemake starts its first job."""

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}]*)\}")
"""A name in braces; a doubled brace is a plain one."""

NEUTRAL_FOLDER = "FOLDER"
"""Stands for every folder where the identity of a run is computed."""


@dataclass(frozen=True)
class Placed:
    """A run with the GPUs that it is on."""

    run: RunConfig
    gpus: int
    cluster: ClusterConfig
    trainer: TrainerConfig

    @property
    def gpus_per_node(self) -> int:
        """GPUs that the run has in each node."""
        return self.cluster.gpus_on_node(self.gpus)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.run.data.tokenizer.vocab_size

    def path(self, *parts: str) -> str:
        """Return a path for the trainer: absolute, as it may start in another folder."""
        joined = Path(*parts)
        neutral = joined.parts[:1] == (NEUTRAL_FOLDER,)
        return str(joined if neutral or self.trainer.is_native else joined.absolute())


def _dtype(placed: Placed) -> str:
    dtype = placed.run.distributed.model_dtype
    # A GPU of today computes in bf16; a CPU may not, and fp32 works everywhere.
    return dtype if dtype != "auto" else "bf16" if placed.run.device == "cuda" else "fp32"


def _checkpoint_every(run: RunConfig) -> int:
    every = run.checkpoint.dump.every if run.checkpoint else None
    return every or run.steps


TERMS: dict[str, Callable[[Placed], Any]] = {
    "dim": lambda p: p.run.model.dim,
    "n_layers": lambda p: p.run.model.n_layers,
    "n_heads": lambda p: p.run.model.n_heads,
    "n_kv_heads": lambda p: p.run.model.kv_heads,
    "dim_per_layer": lambda p: p.run.model.dim // p.run.model.n_layers,
    "head_dim": lambda p: p.run.model.head_dim,
    "ffn_hidden": lambda p: p.run.model.ffn_hidden,
    "multiple_of": lambda p: p.run.model.multiple_of,
    "ffn_dim_multiplier": lambda p: p.run.model.ffn_dim_multiplier,
    "params": lambda p: count_parameters(p.run.model, p.vocab_size).total,
    "vocab_size": lambda p: p.vocab_size,
    "seq_len": lambda p: p.run.data.seq_len,
    "micro_batch": lambda p: p.run.data.batch_size,
    "grad_acc_steps": lambda p: p.run.grad_acc_steps,
    "global_batch": lambda p: p.run.sequences_per_step(p.gpus),
    "tokens_per_step": lambda p: p.run.tokens_per_step(p.gpus),
    "steps": lambda p: p.run.steps,
    "tokens": lambda p: p.run.steps * p.run.tokens_per_step(p.gpus),
    "lr": lambda p: p.run.optim.lr,
    "lr_min_ratio": lambda p: p.run.optim.lr_min_ratio,
    "warmup": lambda p: p.run.optim.warmup,
    "weight_decay": lambda p: p.run.optim.weight_decay,
    "beta1": lambda p: p.run.optim.beta1,
    "beta2": lambda p: p.run.optim.beta2,
    "epsilon": lambda p: p.run.optim.epsilon,
    "clip": lambda p: p.run.optim.clip or 0.0,
    "seed": lambda p: p.run.seed,
    "data_root": lambda p: p.path(p.run.data.root_dir),
    "sources": lambda p: p.run.data.sources,
    "run": lambda p: p.path(p.run.dump_dir),
    "name": lambda p: p.run.name,
    "checkpoint_every": lambda p: _checkpoint_every(p.run),
    "eval_every": lambda p: p.run.evaluation_period or p.run.steps,
    "evaluates": lambda p: p.run.eval is not None,
    "log_every": lambda p: p.run.logging.freq,
    "dtype": _dtype,
    "compile": lambda p: is_compiled(p.run.distributed, p.run.device),
    "eager": lambda p: int(not is_compiled(p.run.distributed, p.run.device)),
    "device": lambda p: p.run.device,
    "threads": lambda p: p.cluster.cpus_per_gpu,
    "world_size": lambda p: p.gpus,
    "nodes": lambda p: p.cluster.nodes(p.gpus),
    "gpus_per_node": lambda p: p.gpus_per_node,
    "settings": lambda p: p.path(p.run.dump_dir, SETTINGS_FILE),
    "config": lambda p: p.path(p.run.dump_dir, p.trainer.config_name or ""),
    "study_dir": lambda p: NEUTRAL_FOLDER if p.run.dump_dir == NEUTRAL_FOLDER else p.path("."),
    "run_config": lambda p: p.run,
}
"""Name in a template or placeholder -> its value. Sizes of batches are in sequences, `params` and
`tokens` are counts, periods are in optimizer steps; `run_config.optim.beta1` is any key of a
run.yaml."""


class _Terms(dict[str, Any]):
    """The terms of a run, each computed when it is first needed."""

    def __init__(self, placed: Placed) -> None:
        super().__init__()
        self._placed = placed

    def __missing__(self, name: str) -> Any:
        self[name] = TERMS[name](self._placed)
        return self[name]


def render_config(placed: Placed) -> str | None:
    """Return the trainer's own config for a run; None without a template.

    Raises ConfigError, which names the template and the line.
    """
    template = placed.trainer.config
    if template is None:
        return None
    assert template.text is not None, "templates are read when the study is loaded"
    compiled, names = _compiled(template.file, template.text)
    terms = _Terms(placed)
    try:
        return compiled.render({name: terms[name] for name in names})
    except Exception as error:  # whatever the expressions of a template raise
        line = _line_of(error)
        message = f"cannot be rendered: {type(error).__name__}: {error}"
        raise ConfigError(
            template.file, [Problem((), message, source=template.file, line=line)]
        ) from None


@functools.cache
def _compiled(file: str, text: str) -> tuple[Any, tuple[str, ...]]:
    """Return a template and the terms in it. Raises ConfigError."""
    # Imported only here: studies with our own trainer alone need no templates.
    import jinja2
    from jinja2 import meta, nodes

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        finalize=_written,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    try:
        tree = environment.parse(text)
    except jinja2.TemplateSyntaxError as error:
        found = Problem((), f"not a template: {error.message}", source=file, line=error.lineno)
        raise ConfigError(file, [found]) from None
    names = meta.find_undeclared_variables(tree)
    unknown = {name for name in names - TERMS.keys() if name not in environment.globals}
    lines = {node.name: node.lineno for node in tree.find_all(nodes.Name) if node.name in unknown}
    if lines:
        problems = [
            Problem((), f"unknown name '{name}'; {_hint(name)}", source=file, line=line)
            for name, line in lines.items()
        ]
        raise ConfigError(file, problems)
    template = environment.from_string(text)
    return template, tuple(sorted(names & TERMS.keys()))


def _written(value: Any) -> Any:
    """Return a value as it is written: 1e-05 is a text in YAML 1.1, and 1.0e-05 a number."""
    text = repr(value) if isinstance(value, float) else ""
    return text.replace("e", ".0e") if "e" in text and "." not in text else value


def template_problems(template: TemplateConfig) -> tuple[Problem, ...]:
    """Return the problems with a template, whatever the run: its syntax, and unknown names."""
    assert template.text is not None
    try:
        _compiled(template.file, template.text)
    except ConfigError as error:
        return error.problems
    return ()


def _hint(name: str) -> str:
    return suggest(name, tuple(TERMS))


def _line_of(error: BaseException) -> int | None:
    """Return the line of a template in which an error was raised."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == "<template>"
    ]
    return lines[-1] if lines else None


def fill(text: str, placed: Placed) -> str:
    """Return a text with its {placeholders} replaced by a run's values."""
    terms = _Terms(placed)

    def value(found: re.Match[str]) -> str:
        return found[0][0] if found["name"] is None else str(terms[found["name"]])

    return PLACEHOLDER.sub(value, text)


def placeholder_problems(name: str, trainer: TrainerConfig) -> list[Problem]:
    """Return a problem for each unknown name in the placeholders of a trainer's description."""
    texts: dict[KeyPath, str] = {("arguments", i): t for i, t in enumerate(trainer.arguments)}
    texts |= {("environment", key): text for key, text in trainer.environment.items()}
    texts[("log", "file")] = trainer.log.file or ""
    return [
        Problem(("trainers", name, *key), f"unknown name '{found['name']}'; {_hint(found['name'])}")
        for key, text in texts.items()
        for found in PLACEHOLDER.finditer(text)
        if found["name"] is not None and found["name"] not in TERMS
    ]


def start_line(trainer: TrainerConfig, per_node: int, rendezvous: str = "--standalone") -> str:
    """Return the shell command that starts `per_node` processes of a trainer on a node, without its
    arguments.

    `rendezvous`: options of torchrun by which the nodes find each other.
    """
    program = shlex.join(trainer.program)
    if trainer.launcher == "none":
        return program if trainer.module is None else f"python {program}"
    return f"{trainer.launcher} --nproc_per_node={per_node} {rendezvous} {program}"


def arguments(placed: Placed) -> str:
    """Return the arguments of a trainer, for a shell."""
    return shlex.join(fill(text, placed) for text in placed.trainer.arguments)


def command(placed: Placed) -> str:
    """Return the shell command of a run on one node, or of each node's share of it."""
    return f"{start_line(placed.trainer, placed.gpus_per_node)} {arguments(placed)}".rstrip()


def log_file(placed: Placed) -> str | None:
    """Return the path of the trainer's log; None: what it prints."""
    file = placed.trainer.log.file
    return None if file is None else fill(file, placed)


def environment(placed: Placed) -> dict[str, str]:
    """Return the environment variables of the command."""
    return {key: fill(text, placed) for key, text in placed.trainer.environment.items()}


def fingerprint(placed: Placed) -> str:
    """Sixteen hex digits that change with anything the results of a run depend on: settings, and
    the trainer's version, config and command. Folders do not count."""
    run = placed.run
    if placed.trainer.is_native:
        return run.fingerprint(placed.gpus)  # as it writes itself into run.json
    return digest({"run": run.fingerprint(placed.gpus), **_identity(_without_folders(placed))})


def speed_key(placed: Placed) -> str:
    """Sixteen hex digits; equal only if two runs are expected to have the same speed."""
    run, trainer = placed.run, placed.trainer
    if trainer.is_native and trainer.found_version is None:
        return run.speed_key(placed.gpus)
    key = run.speed_key(placed.gpus)
    if trainer.is_native:
        return digest({"run": key, "version": trainer.found_version})
    return digest({"run": key, **_identity(_without_values(_without_folders(placed)))})


def _identity(placed: Placed) -> dict[str, Any]:
    """Return what of a trainer tells runs with equal settings apart."""
    trainer = placed.trainer
    return {
        "version": trainer.found_version,
        "config": render_config(placed),
        "command": command(placed),
        "environment": environment(placed),
        "setup": list(trainer.setup),
    }


def _without_folders(placed: Placed) -> Placed:
    """Return a run with neutral folders."""
    run = placed.run
    data = run.data.model_copy(update={"root_dir": NEUTRAL_FOLDER, "shards_dir": NEUTRAL_FOLDER})
    values: dict[str, Any] = {"dump_dir": NEUTRAL_FOLDER, "name": "run", "data": data}
    return Placed(run.model_copy(update=values), placed.gpus, placed.cluster, placed.trainer)


def _without_values(placed: Placed) -> Placed:
    """Return a run with neutral values of the settings that cannot change the speed: as
    `RunConfig.speed_settings` leaves them out."""
    run = placed.run
    optim = OptimConfig(
        name=run.optim.name,
        fused=run.optim.fused,
        clip=None if run.optim.clip is None else 1.0,
        warmup=10,
    )
    data: DataConfig = run.data.model_copy(update={"sources": {"text": 1.0}, "seed": None})
    values = {"steps": 1000, "seed": 0, "optim": optim, "data": data}
    values |= {"checkpoint": None, "eval": None}
    return Placed(run.model_copy(update=values), placed.gpus, placed.cluster, placed.trainer)
