"""The points of a grid: the combinations of its axes, by name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from study.axes import Choice, combinations, name_variant
from study.config import Branch, GridEntry, Study
from trainer.config import suggest
from trainer.problems import KeyPath, Problem

AXES = ("cluster", "model", "gpus", "variant", "seed")
"""The axes of a grid, from the slowest to the fastest varying."""

CELL_NAME = "{cluster}/{model}/gpus-{gpus}/{variant}/seed-{seed}"
"""Name of a cell, for people, folders and messages. It is never parsed."""

RUN_FOLDER = f"runs/{CELL_NAME}"
"""Folder of a run, relative to its study's folder."""


@dataclass(frozen=True)
class Point:
    """One combination of an entry's axes, before validation."""

    where: KeyPath
    entry: GridEntry
    cluster: str
    model: str
    gpus: int
    named_variant: str
    seed: int
    choices: tuple[Choice, ...]
    trunk: "Point | None" = None
    """The cell from which it starts, if its block names one that exists."""

    @property
    def variant(self) -> str:
        """The variant's name in the cell's."""
        return name_variant(self.named_variant, self.choices)

    @property
    def labels(self) -> dict[str, Any]:
        """Axis -> value."""
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def length(self) -> Choice | None:
        """The length of the run, if its block sets one."""
        return next((choice for choice in self.choices if choice.is_length), None)

    def at(self, choice: Choice) -> KeyPath:
        """Return the key in the study file of a choice."""
        return (*self.where, *choice.where)


def points(study: Study) -> list[Point]:
    """Return the combinations of all blocks, also those that `where` excludes."""
    found = [
        Point(("grid", index), entry, *values)
        for index, entry in enumerate(study.grid)
        for values in combinations(entry, AXES)
    ]
    if all(entry.from_ is None for entry in study.grid):
        return found
    by_name = {CELL_NAME.format(**point.labels): point for point in found}
    return [_with_trunk(point, by_name) for point in found]


def _with_trunk(point: Point, by_name: Mapping[str, Point], *branches: str) -> Point:
    """Return a point with the one from which it starts; without one that starts from it again."""
    branch = point.entry.from_
    if branch is None:
        return point
    name = trunk_name(point, branch)
    branches = (*branches, CELL_NAME.format(**point.labels))
    trunk = None if name in branches else by_name.get(name)
    return point if trunk is None else replace(point, trunk=_with_trunk(trunk, by_name, *branches))


def trunk_name(point: Point, branch: Branch) -> str:
    """Return the name of the cell from which a point's run starts."""
    whole = branch.cell if "/" in branch.cell else None
    return whole or CELL_NAME.format(**{**point.labels, "variant": branch.cell})


def is_known(study: Study, point: Point) -> bool:
    """Return whether a point's names are those of valid clusters, models and variants."""
    variants = ("base", *study.variants)
    known = point.cluster in study.clusters and point.model in study.models
    return known and point.named_variant in variants


def unknown_names(
    where: KeyPath, entry: GridEntry, known: Mapping[str, Sequence[str]]
) -> Iterator[Problem]:
    """Yield a problem for each name of a block that its table lacks."""
    axes = (("cluster", "clusters"), ("model", "models"), ("variant", "variants"))
    for axis, table in axes:
        for name in getattr(entry, axis):
            if table in known and name not in known[table]:
                message = f"unknown {axis} '{name}'; {suggest(name, known[table])}"
                yield Problem((*where, axis), message)
