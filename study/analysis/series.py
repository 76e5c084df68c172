"""Which analyses a grid has: cells that differ in what one is about, and otherwise in size and seed
alone. Planning asks too, so nothing here loads numpy."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.grid import Cell, Grid
from study.kinds import names_trainers
from study.sequences import group_by
from trainer.layers import flatten
from trainer.problems import KeyPath

Leaves = Mapping[KeyPath, Any]
"""Key -> value of each override that is not a mapping."""

LEARNING_RATE: KeyPath = ("optim", "lr")

ABLATED: tuple[KeyPath, ...] = (
    ("model",),
    *(("data", key) for key in ("sources", "seq_len", "tokenizer", "add_bos", "add_eos")),
    ("data", "document_mask"),
)
"""The architecture, and the data that is learned from."""

FEWEST = 3
"""Fewest learning rates of a size, and sizes of a budget, that determine a parabola."""


@dataclass(frozen=True)
class Series:
    """Cells of one analysis that are compared with each other."""

    label: str
    """The variant and the values of further axes that they have in common; `base` if none. In a
    study with other trainers than ours, their trainer comes first."""
    cells: tuple[Cell, ...]
    changes: Mapping[str, tuple[str, ...]]
    """Name of a cell -> its variant and values in what the analysis is about."""

    def by_model(self) -> dict[str, list[Cell]]:
        """Return model -> cells, by ascending size."""
        models = group_by(self.cells, lambda cell: cell.model)
        return dict(sorted(models.items(), key=lambda item: item[1][0].params))


def learning_rates(grid: Grid) -> list[Series]:
    """Return the series with sizes at three learning rates or more."""
    axis = _Axis(grid, keys=(LEARNING_RATE,))
    cells = grid.measured if axis.is_used else []
    return axis.series(cells, lambda cell: cell.model, axis.place, FEWEST)


def isoflop_curves(grid: Grid) -> list[Series]:
    """Return the series with three sizes or more at one number of FLOPs."""
    cells = [cell for cell in grid.measured if cell.length and cell.length.key == "flops"]
    return _Axis(grid, length=True).series(cells, _budget, lambda cell: cell.model, FEWEST)


def token_counts(grid: Grid) -> list[Series]:
    """Return the series with sizes trained for several lengths, other than for IsoFLOP curves."""
    other = {cell.name for series in isoflop_curves(grid) for cell in series.cells}
    axis = _Axis(grid, keys=(("steps",),), length=True)
    cells = [cell for cell in grid.measured if cell.name not in other and axis.place(cell) != "{}"]
    return axis.series(cells, lambda cell: cell.model, axis.place, 2)


def of_equal_settings(grid: Grid) -> list[Series]:
    """Return all cells to measure, in series that differ in size, length and seed alone."""
    axis = _Axis(grid, keys=(("steps",),), length=True)
    return axis.series(grid.measured, lambda cell: cell.name, lambda cell: cell.name, 1)


def ablations(grid: Grid) -> list[Series]:
    """Return the series with several architectures or data mixes of a size."""
    axis = _Axis(grid, keys=ABLATED, whole_variants=True)
    cells = grid.measured if axis.is_used else []
    return axis.series(cells, lambda cell: cell.model, axis.place, 2)


FINDERS: dict[str, Callable[[Grid], list[Series]]] = {
    "learning_rate": learning_rates,
    "isoflop": isoflop_curves,
    "tokens_per_parameter": token_counts,
    "ablations": ablations,
}
"""Name of an analysis -> its series in a grid; none if the grid does not have it."""

TABLES = {
    "learning_rate": ("learning_rate",),
    "isoflop": ("isoflop", "isoflop_exponents"),
    "tokens_per_parameter": ("tokens_per_parameter",),
    "ablations": ("ablations",),
}
"""Name of an analysis -> its CSVs, without suffix."""


def find_analyses(grid: Grid) -> list[str]:
    """Return the names of the analyses that a grid has."""
    return [name for name, find in FINDERS.items() if find(grid)]


def table_files(names: Sequence[str]) -> list[str]:
    """Return the names of the files with the tables of some analyses."""
    tables = [f"{table}.csv" for name in names for table in TABLES[name]]
    return [*tables, *(f"{name}.md" for name in names)]


def name_parts(parts: Sequence[str]) -> str:
    """Return the name of a variant and values, as in a cell's folder; `base` if there are none."""
    return "+".join(parts) or "base"


def _budget(cell: Cell) -> float:
    assert cell.length is not None
    return float(cell.length.value)


class _Axis:
    """What the cells of a series may differ in, besides model and seed: keys, and the length."""

    def __init__(
        self,
        grid: Grid,
        keys: Sequence[KeyPath] = (),
        length: bool = False,
        whole_variants: bool = False,
    ) -> None:
        """`whole_variants`: to a variant with one of the keys, its other overrides belong too."""
        self._keys, self._length = keys, length
        self._with_trainer = names_trainers(grid)
        # Of each variant, which thousands of cells may share.
        first = {cell.variant: cell for cell in reversed(grid.measured)}
        self._leaves = {variant: _without_length(cell) for variant, cell in first.items()}
        self._texts: dict[tuple[str, bool], str] = {}
        variants = {
            name: list(dict(flatten(values))) for name, values in grid.study.variants.items()
        }
        self._whole = {
            name: set(paths)
            for name, paths in variants.items()
            if whole_variants and any(map(self._is_key, paths))
        }
        self._own = {
            name for name, paths in variants.items() if paths and all(map(self._is_key, paths))
        }

    @property
    def is_used(self) -> bool:
        """Whether any cell overrides one of the keys."""
        return any(self._is_key(path) for leaves in self._leaves.values() for path in leaves)

    def series(
        self,
        cells: Iterable[Cell],
        group: Callable[[Cell], Any],
        value: Callable[[Cell], Any],
        fewest: int,
    ) -> list[Series]:
        """Return the series of some cells: only groups with at least `fewest` different values."""
        found = []
        for members in group_by(cells, self._rest).values():
            for where, apart in self._apart(members).items():
                values: dict[Any, set[Any]] = {}
                for cell in apart:
                    values.setdefault(group(cell), set()).add(value(cell))
                kept = [cell for cell in apart if len(values[group(cell)]) >= fewest]
                if kept:
                    label = name_parts(self._parts(kept[0], of_axis=False)) + where
                    changes = {cell.name: self._parts(cell, of_axis=True) for cell in kept}
                    found.append(Series(label, tuple(kept), changes))
        return found

    def place(self, cell: Cell) -> str:
        """Return what is written of the axis for a cell; `{}` if nothing is."""
        return self._written(cell, of_axis=True)

    def _rest(self, cell: Cell) -> str:
        return f"{cell.trainer} {cell.trunk is not None} {self._written(cell, of_axis=False)}"

    def _written(self, cell: Cell, of_axis: bool) -> str:
        key = cell.variant, of_axis
        if key not in self._texts:
            self._texts[key] = self._write(cell, of_axis)
        return self._texts[key]

    def _write(self, cell: Cell, of_axis: bool) -> str:
        leaves = self._leaves[cell.variant]
        found = {
            ".".join(map(str, path)): value
            for path, value in leaves.items()
            if self._is_of_axis(cell, path) == of_axis
        }
        if cell.length is not None and self._length == of_axis:
            found[f"length in {cell.length.key}"] = cell.length.value
        return json.dumps(found, sort_keys=True)

    def _apart(self, cells: Sequence[Cell]) -> dict[str, list[Cell]]:
        """Return cells by cluster and GPU count if they repeat each other, else all at "".

        Those of one cluster and GPU count that do so all the same have other batches: the first of
        them stays.
        """
        if len({self._point(cell) for cell in cells}) == len(cells):
            return {"": list(cells)}
        parts: dict[str, dict[Any, Cell]] = {}
        for cell in cells:
            where = f" on {cell.gpus}x {cell.cluster}"
            parts.setdefault(where, {}).setdefault(self._point(cell), cell)
        return {where: list(part.values()) for where, part in parts.items()}

    def _point(self, cell: Cell) -> tuple[Any, ...]:
        return cell.model, cell.seed, self.place(cell)

    def _parts(self, cell: Cell, of_axis: bool) -> tuple[str, ...]:
        """Return the variant and the values that are, or are not, of the axis."""
        variant = cell.named_variant
        is_of_axis = variant in self._whole or variant in self._own
        parts = [cell.trainer] if self._with_trainer and not of_axis else []
        parts += [variant] if variant != "base" and is_of_axis == of_axis else []
        for choice in cell.choices:
            is_key = self._is_key(tuple(choice.key.split(".")))
            if (self._length if choice.is_length else is_key) == of_axis:
                parts.append(choice.name)
        return tuple(parts)

    def _is_of_axis(self, cell: Cell, path: KeyPath) -> bool:
        if self._is_key(path):
            return True
        swept = [tuple(choice.key.split(".")) for choice in cell.choices]
        is_swept = any(path[: len(key)] == key for key in swept)
        return path in self._whole.get(cell.named_variant, ()) and not is_swept

    def _is_key(self, path: KeyPath) -> bool:
        return any(path[: len(key)] == key for key in self._keys)


def _without_length(cell: Cell) -> Leaves:
    """Return a cell's overrides, without those that its length is or replaces."""
    length = () if cell.length is None else (("steps",), (cell.length.key,))
    return {path: value for path, value in flatten(cell.overrides) if path not in length}
