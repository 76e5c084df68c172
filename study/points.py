"""The points of a grid: the combinations of its axes, by name.

A block may name several clusters for each of its cells, `cluster: {any: [a, b]}`. Such a point is
on the one that the study's `placements` name for it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import Any

from study.axes import Choice, combinations, name_variant
from study.config import Evidence, Study
from study.grid_config import AnyOf, Branch, GridEntry
from trainer.problems import KeyPath, Problem
from trainer.settings import suggest

AXES = ("cluster", "model", "gpus", "variant", "seed")
"""The axes of a grid, from the slowest to the fastest varying."""

BLOCK_AXES = ("cluster", "model", "gpus", "trainer", "variant", "seed")
"""The axes that a block has itself; the name of a cell's variant includes its trainer's."""

CELL_NAME = "{cluster}/{model}/gpus-{gpus}/{variant}/seed-{seed}"
"""Name of a cell, for people, folders and messages. It is never parsed."""


def short_names(labels: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of cells without the parts that are the same in all of them; that of a
    single cell is whole.

    `labels`: axis -> value of each cell.
    """
    names = [[part.format(**each) for part in CELL_NAME.split("/")] for each in labels]
    differs = [len(set(column)) > 1 for column in zip(*names, strict=True)]
    if not any(differs):
        return ["/".join(name) for name in names]
    return ["/".join(compress(name, differs)) for name in names]


BETWEEN = "|"
"""Between the clusters of a cell for which one is chosen; in no name of a cluster."""

RUN_FOLDER = f"runs/{CELL_NAME}"
"""Folder of a run, relative to its study's folder."""

COMPLETED = "completed"
"""File in a run's folder that Snakemake creates when the run's job has ended well."""

LOGS = ("train.log", "attempt.log")
"""Logs in a run's folder: of all attempts, and of the last one."""


@dataclass(frozen=True)
class Point:
    """One combination of an entry's axes, before validation."""

    where: KeyPath
    entry: GridEntry
    cluster: str
    model: str
    gpus: int
    trainer: str
    named_variant: str
    seed: int
    choices: tuple[Choice, ...]
    trunk: "Point | None" = None
    """The cell from which it starts, if its block names one that exists."""
    candidates: tuple[str, ...] = ()
    """The clusters of which one is chosen; empty if its block names one."""

    @cached_property
    def variant(self) -> str:
        """The variant's name in the cell's."""
        return name_variant(self.named_variant, self.choices, self.trainer)

    @property
    def labels(self) -> dict[str, Any]:
        """Axis -> value."""
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def unplaced(self) -> dict[str, Any]:
        """Its labels before a cluster is chosen: all candidates are the cluster, `a|b`."""
        return {**self.labels, "cluster": BETWEEN.join(self.candidates) or self.cluster}

    @property
    def name(self) -> str:
        """Name of its cell before a cluster is chosen; a key of the study's `placements`."""
        return CELL_NAME.format(**self.unplaced)

    @property
    def leader(self) -> "Point":
        """The point that a cluster is chosen for: the first trunk with the same candidates.

        A branch runs where the cell does that it starts from.
        """
        trunk = self.trunk
        if trunk is None or not self.candidates or trunk.candidates != self.candidates:
            return self
        return trunk.leader

    def on(self, cluster: str) -> "Point":
        """Return the point on one of its candidates, and with it the trunks that it follows."""
        trunk = self.trunk
        if trunk is not None and self.leader is not self:
            trunk = trunk.on(cluster)
        return replace(self, cluster=cluster, trunk=trunk)

    @property
    def length(self) -> Choice | None:
        """The length of the run, if its block sets one."""
        return next((choice for choice in self.choices if choice.is_length), None)

    def at(self, choice: Choice) -> KeyPath:
        """Return the key in the study file of a choice."""
        return (*self.where, *choice.where)


def points(study: Study) -> list[Point]:
    """Return the combinations of all blocks, also those that `where` excludes.

    A point without a placement is on the first of its candidates.
    """
    found = [
        _make_point(("grid", index), entry, *values)
        for index, entry in enumerate(study.grid)
        for values in combinations(entry, BLOCK_AXES)
    ]
    if any(entry.from_ is not None for entry in study.grid):
        by_name = {point.name: point for point in found}
        found = [_with_trunk(point, by_name) for point in found]
    return [_placed(study, point) for point in found]


def _make_point(where: KeyPath, entry: GridEntry, cluster: str | AnyOf, *others: Any) -> Point:
    if isinstance(cluster, str):
        return Point(where, entry, cluster, *others)
    return replace(Point(where, entry, "", *others), candidates=tuple(cluster.any))


def _placed(study: Study, point: Point) -> Point:
    """Return a point, and the trunks that it starts from, on the clusters of their placements."""
    if point.trunk is not None:
        point = replace(point, trunk=_placed(study, point.trunk))
    if not point.candidates:
        return point
    return point.on(placement_of(study, point) or point.candidates[0])


def placement_of(study: Study, point: Point) -> str | None:
    """Return the cluster that is chosen for a point with candidates; None if none is yet."""
    chosen = study.placements.get(point.leader.name)
    return chosen if chosen in point.candidates else None


def _with_trunk(point: Point, by_name: Mapping[str, Point], *branches: str) -> Point:
    """Return a point with the one from which it starts; without one that starts from it again."""
    branch = point.entry.from_
    if branch is None:
        return point
    name = trunk_name(point, branch)
    branches = (*branches, point.name)
    trunk = None if name in branches else by_name.get(name)
    return point if trunk is None else replace(point, trunk=_with_trunk(trunk, by_name, *branches))


def trunk_name(point: Point, branch: Branch) -> str:
    """Return the name of the cell from which a point's run starts, before its cluster is chosen."""
    whole = branch.cell if "/" in branch.cell else None
    return whole or CELL_NAME.format(**{**point.unplaced, "variant": branch.cell})


def is_known(study: Study, point: Point) -> bool:
    """Return whether a point's names are those of valid clusters, models and variants."""
    variants = ("base", *study.variants)
    known = all(name in study.clusters for name in (point.cluster, *point.candidates))
    known = known and point.trainer in study.trainers
    return known and point.model in study.models and point.named_variant in variants


def unknown_names(
    where: KeyPath, entry: GridEntry | Evidence, known: Mapping[str, Sequence[str]]
) -> Iterator[Problem]:
    """Yield a problem for each name of a block, or of evidence, that its table lacks."""
    axes = [(axis, f"{axis}s") for axis in ("cluster", "model", "trainer", "variant")]
    for axis, table in axes:
        for name in _names(getattr(entry, axis)):
            if table in known and name not in known[table]:
                message = f"unknown {axis} '{name}'; {suggest(name, known[table])}"
                yield Problem((*where, axis), message)


def _names(values: Sequence[str | AnyOf] | str | None) -> Iterator[str]:
    """Yield the names on an axis, those of candidates included."""
    for value in [values] if isinstance(values, str) else values or ():
        yield from value.any if isinstance(value, AnyOf) else [value]
