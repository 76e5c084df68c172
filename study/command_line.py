"""Options of a command line, and the values that they take."""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Option:
    """An option, of one command or of several; by default a path."""

    name: str
    help: str
    kind: Mapping[str, Any] = field(default_factory=lambda: {"type": Path})
    """What argparse is told of its value."""


@dataclass(frozen=True)
class Command:
    """A command; its help is the docstring of its function."""

    function: Callable[[argparse.Namespace], None]
    required: Sequence[Option]
    optional: Sequence[Option] = ()


def build_parser(
    prog: str, description: str, commands: Mapping[str, Command]
) -> argparse.ArgumentParser:
    """Return a parser that sets `function` to that of the command."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in commands.items():
        text = command.function.__doc__
        sub = subparsers.add_parser(name, help=text, description=text)
        for option in command.required:
            needed: dict[str, Any] = {"required": True} if option.name.startswith("-") else {}
            sub.add_argument(option.name, help=option.help, **option.kind, **needed)
        for option in command.optional:
            sub.add_argument(option.name, help=option.help, **option.kind)
        sub.set_defaults(function=command.function)
    return parser


def positive(text: str) -> float:
    """Return a number above 0, and below what no clock can wait for."""
    return _number(text, "a number above 0 and below 1e9", lambda value: 0 < value < 1e9)


def not_negative(text: str) -> float:
    """Return a number, 0 or above."""
    return _number(text, "a number, 0 or above", lambda value: value >= 0)


def count(text: str) -> int:
    """Return a whole number, 0 or above."""
    wanted = "a whole number, 0 or above"
    return int(_number(text, wanted, lambda value: value >= 0 and value.is_integer()))


def whole(text: str) -> int:
    """Return a whole number above 0."""
    wanted = "a whole number above 0"
    return int(_number(text, wanted, lambda value: value >= 1 and value.is_integer()))


def _number(text: str, wanted: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"found {text!r}; expected {wanted}")
    return value
