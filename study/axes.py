"""The axes that a block of the grid adds to a cell's settings: the length of the run, and sweeps
over keys of a run.yaml. Each value names itself in the cell's folder."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

from study.grid_config import LENGTHS, GridEntry
from study.horizon import TOKENS_PATTERN, tokens_of
from study.trainers import DEFAULT_TRAINER
from trainer.config import RunConfig
from trainer.layers import nest
from trainer.problems import KeyPath
from trainer.settings import dotted_keys
from trainer.yaml_files import dump_yaml

WORD = re.compile(r"^(?!(?:true|false|null|nan|inf)$)[A-Za-z][A-Za-z0-9_.-]{0,23}$", re.ASCII)
"""A string that is its own name in a folder's."""

LONGEST_NAME = 100
"""Most characters of a variant's name with the names of its values."""

DIGEST = 6
"""Characters of a digest that tells apart values whose names were shortened."""


@dataclass(frozen=True)
class Choice:
    """One value of an added axis."""

    key: str
    """One of `LENGTHS`, or a dotted key of a run.yaml."""
    value: Any
    where: KeyPath
    """Where it is written in its block."""

    @property
    def is_length(self) -> bool:
        """Whether it is the length of the run."""
        return self.where[0] in LENGTHS

    @property
    def overrides(self) -> dict[str, Any]:
        """The value as settings of a run.yaml; a length has a key of its own."""
        return nest(self.key, self.value)

    @property
    def name(self) -> str:
        """Readable part of a folder's name: `lr-0.001`, `tokens-20N`."""
        return f"{short_key(self.key)}-{name_value(self.value)}"

    def tokens(self, params: int, flops_per_token: float) -> float | None:
        """Return the tokens that a length in tokens or FLOPs asks for; None for any other choice.

        `params` are all parameters, as for the horizon `chinchilla`; `flops_per_token` are those of
        MFU, see `trainer.flops.flops_per_token`.
        """
        if not self.is_length or self.key == "steps":
            return None
        if self.key == "tokens":
            return tokens_of(self.value, params)
        return float(self.value) / flops_per_token


def combinations(entry: GridEntry, axes: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the values of the named axes at each point of a block, followed by a tuple of choices.

    The axes vary from the first, slowest, to the seed, which is the last; the added ones come
    before it. With `paired` all lists but the seeds are taken together.
    """
    *outer, _ = axes
    lists: list[Sequence[Any]] = [getattr(entry, axis) for axis in outer]
    lists += added_axes(entry).values()
    if entry.paired:
        longest = max(map(len, lists))
        lists = [values if len(values) > 1 else [*values] * longest for values in lists]
        points: Iterator[tuple[Any, ...]] = zip(*lists, strict=True)
    else:
        points = itertools.product(*lists)
    for point in points:
        for seed in entry.seeds:
            yield *point[: len(outer)], seed, point[len(outer) :]


def added_axes(entry: GridEntry) -> dict[str, list[Choice]]:
    """Return key -> choices of each axis that a block adds."""
    axes = {}
    for kind in LENGTHS:
        values = getattr(entry, kind)
        if values is not None:
            axes[kind] = [Choice(kind, value, (kind, i)) for i, value in enumerate(values)]
    for key, values in entry.sweep.items():
        axes[f"sweep.{key}"] = [
            Choice(key, value, ("sweep", key, i)) for i, value in enumerate(values)
        ]
    return axes


def name_variant(variant: str, choices: Sequence[Choice], trainer: str = DEFAULT_TRAINER) -> str:
    """Return the name of a variant with its trainer, unless that is the default one, and further
    choices: `base` alone, `decay+lr-0.001`, `litgpt+decay`.

    The sign + is in no other name.
    """
    parts = [] if trainer == DEFAULT_TRAINER else [trainer]
    parts += [] if variant == "base" else [variant]
    parts += [choice.name for choice in choices]
    name = "+".join(parts) or "base"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 1 - DIGEST]}-{_digest(name)}"


@cache
def short_key(key: str) -> str:
    """Return the last parts of a dotted key, as many as tell it from all other keys.

    `lr` for optim.lr; `data.seed`, as there is also a model.seed.
    """
    parts = key.split(".")
    for start in reversed(range(len(parts))):
        tail = ".".join(parts[start:])
        others = (other for other in dotted_keys(RunConfig) if other != key)
        if not any(other == tail or other.endswith(f".{tail}") for other in others):
            return tail
    return key


def name_value(value: Any) -> str:
    """Return a value's part of a folder's name; different values have different ones."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return _name_number(value)
    if isinstance(value, str) and (WORD.match(value) or TOKENS_PATTERN.match(value)):
        return value.replace(" ", "")
    readable = dump_yaml(value) if not isinstance(value, str) else value
    readable = re.sub(r"[^A-Za-z0-9_.]+", "-", readable).strip("-.")[:24]
    return f"{readable}-{_digest(value)}".lstrip("-")


def _name_number(value: float) -> str:
    """Return a number as it is, or with an exponent if that is long: 0.003, 4e-5, 1.5e18."""
    if not math.isfinite(value):
        return str(value)
    exact = Decimal(repr(int(value) if value == int(value) else value))
    plain, short = f"{exact:f}", f"{exact.normalize():e}".replace("+", "")
    return plain if len(plain) <= max(6, len(short)) else short


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:DIGEST]
