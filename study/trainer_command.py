"""The command of a trainer: how it is launched, and its arguments and environment, in which
`{placeholders}` stand for a run's values."""

import re
import shlex

from study.terms import TERMS, Placed, Terms, unknown_term
from study.trainers import TrainerConfig
from trainer.problems import KeyPath, Problem

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}]*)\}")
"""A name in braces; a doubled brace is a plain one."""

ON_ONE_NODE = "--standalone --local-addr=localhost"
"""Options of torchrun. Without an address it looks the host's name up, and where that does not
resolve, as on some laptops and in containers, it waits for minutes and fails."""

OUR_TORCHRUN = "python -m trainer.torchrun"
"""torchrun for this repository's trainer, whose environment has it; see trainer/torchrun.py."""


def fill(text: str, placed: Placed) -> str:
    """Return a text with its {placeholders} replaced by a run's values."""
    terms = Terms(placed)

    def value(found: re.Match[str]) -> str:
        return found[0][0] if found["name"] is None else str(terms[found["name"]])

    return PLACEHOLDER.sub(value, text)


def placeholder_problems(name: str, trainer: TrainerConfig) -> list[Problem]:
    """Return a problem for each unknown name in the placeholders of a trainer's description."""
    texts: dict[KeyPath, str] = {("arguments", i): t for i, t in enumerate(trainer.arguments)}
    texts |= {("environment", key): text for key, text in trainer.environment.items()}
    texts[("log", "file")] = trainer.log.file or ""
    return [
        Problem(("trainers", name, *key), unknown_term(found["name"]))
        for key, text in texts.items()
        for found in PLACEHOLDER.finditer(text)
        if found["name"] is not None and found["name"] not in TERMS
    ]


def start_line(trainer: TrainerConfig, per_node: int, rendezvous: str = ON_ONE_NODE) -> str:
    """Return the shell command that starts `per_node` processes of a trainer on a node, without its
    arguments.

    `rendezvous`: options of torchrun by which the nodes find each other.
    """
    program = shlex.join(trainer.program)
    if trainer.launcher == "none":
        return program if trainer.module is None else f"python {program}"
    launcher = trainer.launcher
    if trainer.is_native and launcher == "torchrun":
        launcher = OUR_TORCHRUN
    return f"{launcher} --nproc_per_node={per_node} {rendezvous} {program}"


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
