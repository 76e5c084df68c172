"""The grid: a study's cells, each with the complete config of its run; a pure function."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from study.axes import Choice, name_variant
from study.cluster_config import ClusterConfig
from study.config import Study
from study.facts import CellFacts
from study.grid_config import GridEntry
from study.identity import fingerprint, speed_key
from study.placements import Placement, Prospect
from study.point_settings import meets_condition, options, points_to_run, settle_run, start_of
from study.points import AXES, CELL_NAME, COMPLETED, Point, placement_of, points, unknown_names
from study.terms import Placed
from study.trainers import TrainerConfig
from trainer.config import DataConfig, RunConfig, digest
from trainer.execution.choices import is_compiled
from trainer.flops import count_parameters, flops_per_token
from trainer.layers import Layer, merge
from trainer.problems import ConfigError, KeyPath, RuleError, format_path
from trainer.settings import validate

Configuration = tuple[str, str, int, str]
"""Cluster, model, GPU count and variant: what cells that differ in their seed have in common."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    cluster: str
    model: str
    gpus: int
    variant: str
    """Its variant, with the values of its block's further axes: `decay+lr-0.001`."""
    seed: int
    measure: bool
    """False: the cell is estimated and never run."""
    cluster_config: ClusterConfig
    """The cluster's settings."""
    run: RunConfig
    """The complete settings of the run."""
    overrides: dict[str, Any]
    """The overrides of its variant and of the block's further axes."""
    named_variant: str
    """Its variant alone."""
    trainer: str
    """Name of its trainer."""
    trainer_config: TrainerConfig
    """The trainer's description."""
    choices: tuple[Choice, ...]
    """The values of the block's further axes, which are swept settings and the length."""
    length: Choice | None
    """The length of the run, if its block sets one."""
    trunk: str | None
    """Folder of the run from whose checkpoint this one starts."""
    start_step: int
    """Step of that checkpoint; 0 without one."""
    placement: str | None
    """Key in `placements` that has the choice of its cluster; None if its block names one."""

    @property
    def labels(self) -> dict[str, Any]:
        """Axis -> value: the wildcards of a run's folder."""
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def configuration(self) -> Configuration:
        """The cell without its seed."""
        return self.cluster, self.model, self.gpus, self.variant

    @property
    def plain_variant(self) -> str:
        """The name of its variant without that of its trainer."""
        return name_variant(self.named_variant, self.choices)

    @cached_property
    def name(self) -> str:
        """Name for people and messages."""
        return CELL_NAME.format(**self.labels)

    @property
    def folder(self) -> str:
        """The run's folder."""
        return self.run.dump_dir

    @property
    def completed_file(self) -> str:
        """The file that Snakemake creates when the run's job has ended well."""
        return f"{self.folder}/{COMPLETED}"

    @property
    def nodes(self) -> int:
        """Number of nodes of the run."""
        return self.cluster_config.nodes(self.gpus)

    def on_nodes(self, nodes: int) -> "Cell":
        """Return the cell on the nodes of its run, after which `gpus_per_node` may have changed."""
        if nodes == self.nodes:
            return self
        edited = {"gpus_per_node": self.gpus // nodes}
        return replace(self, cluster_config=self.cluster_config.model_copy(update=edited))

    @cached_property
    def params(self) -> int:
        """Parameter count of the model."""
        return count_parameters(self.run.model, self.run.data.tokenizer.vocab_size).total

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs for each token, see `trainer.flops`; a document mask is not counted."""
        data = self.run.data
        return flops_per_token(self.run.model, data.tokenizer.vocab_size, data.seq_len)

    @property
    def flops_per_step(self) -> float:
        """Training FLOPs of one optimizer step, over all GPUs."""
        return self.flops_per_token * self.tokens_per_step

    @property
    def wanted_tokens(self) -> float | None:
        """Tokens that the run's length asks for, before they are rounded to whole steps; None if it
        is set in steps."""
        if self.length is None:
            return None
        return self.length.tokens(self.params, self.flops_per_token)

    @property
    def compiled(self) -> bool:
        """Whether the run's blocks are compiled."""
        return is_compiled(self.run.distributed, self.run.device)

    @property
    def placed(self) -> Placed:
        """The run with its GPUs and its trainer."""
        return Placed(self.run, self.gpus, self.cluster_config, self.trainer_config)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the run's settings, GPU count and trainer; see `RunConfig.fingerprint`."""
        return fingerprint(self.placed)

    @cached_property
    def speed_key(self) -> str:
        """Digest of what can change the run's speed; see `RunConfig.speed_key`."""
        return speed_key(self.placed)

    @property
    def measured_with(self) -> tuple[str, str]:
        """Cluster and trainer: measurements with others say nothing of its speed."""
        return self.cluster, self.trainer

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.run.tokens_per_step(self.gpus)


class Grid(Sequence[Cell]):
    """All cells of a study, in the order of the study file."""

    def __init__(
        self,
        study: Study,
        cells: Sequence[Cell] | None = None,
        placements: Mapping[str, Placement] | None = None,
    ) -> None:
        """`cells`: those of the study, if they are built already. Raises ConfigError otherwise.

        `placements`: why the clusters of cells were chosen, where that is known.
        """
        self.study = study
        self.placements = placements or {}
        self._cells = cells or [build_at(study, point) for point in points_to_run(study)]
        self.by_name = {cell.name: cell for cell in self}
        """Name -> cell."""

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, index: Any) -> Any:
        return self._cells[index]

    def at(self, wildcards: Any) -> Cell:
        """Return the cell of a rule's wildcards."""
        return self.by_name[CELL_NAME.format(**{axis: getattr(wildcards, axis) for axis in AXES})]

    @property
    def measured(self) -> list[Cell]:
        """The cells to run."""
        return [cell for cell in self if cell.measure]

    @property
    def configurations(self) -> list[Cell]:
        """The first cell of each configuration, whose seeds are repetitions."""
        first: dict[Configuration, Cell] = {}
        for cell in self:
            first.setdefault(cell.configuration, cell)
        return list(first.values())

    @cached_property
    def sources(self) -> dict[str, DataConfig]:
        """Name -> data settings of the runs that read a source of text in one way.

        The name is the source's. Where a source is read in several ways, from another folder on
        another cluster or with another tokenizer, all but the first have a digest before it.
        """
        found: dict[str, DataConfig] = {}
        for cell in self:
            found |= {name: cell.run.data for name in self.source_names(cell)}
        return found

    def source_names(self, cell: Cell) -> list[str]:
        """Return the names in `sources` of what a run reads."""
        reading = _reading(cell.run.data)
        names = []
        for source in cell.run.sources:
            is_first = reading == self._first_readings[source]
            names.append(source if is_first else f"{digest(reading)[:6]}/{source}")
        return names

    @cached_property
    def _first_readings(self) -> dict[str, dict[str, Any]]:
        readings: dict[str, dict[str, Any]] = {}
        for cell in self:
            for source in set(cell.run.sources) - readings.keys():
                readings[source] = _reading(cell.run.data)
        return readings

    @property
    def data_roots(self) -> list[str]:
        """Folders of the sources' text."""
        roots = (str(Path(data.root_dir)) for data in self.sources.values())
        return list(dict.fromkeys(roots))

    def tokenizing_options(self, source: str) -> str:
        """Return the options of the tokenising command for a name in `sources`."""
        data = self.sources[source]
        tokenizer = data.tokenizer
        given = {
            "--tokenizer": tokenizer.name,
            "--tokenizer-path": tokenizer.path,
            "--n-words": tokenizer.n_words,
            "--bos": tokenizer.bos,
            "--eos": tokenizer.eos,
        }
        options = [
            f"{option}={shlex.quote(str(value))}"
            for option, value in given.items()
            if value is not None
        ]
        options += [] if data.add_bos else ["--no-add-bos"]
        options += [] if data.add_eos else ["--no-add-eos"]
        return " ".join(options)


def _reading(data: DataConfig) -> dict[str, Any]:
    """Return what the tokens of a source depend on, besides its text."""
    included = {"root_dir", "tokenizer", "add_bos", "add_eos"}
    return data.model_dump(mode="json", include=included)


def build_cell(
    study: Study,
    where: str,
    *,
    cluster: str,
    model: str,
    gpus: int,
    variant: str,
    trainer: str,
    changes: Mapping[str, Any],
) -> Cell:
    """Return a cell outside the grid, from the study's names, with changes to its run's settings.

    Raises ConfigError with source `where` if a name is unknown or the settings are invalid.
    """
    axes = {"cluster": [cluster], "model": [model], "gpus": [gpus], "variant": [variant]}
    axes["trainer"] = [trainer]
    entry = validate(GridEntry, axes, where)
    names = {
        "clusters": list(study.clusters),
        "models": list(study.models),
        "trainers": list(study.trainers),
        "variants": ["base", *study.variants],
    }
    problems = list(unknown_names((), entry, names))
    if problems:
        raise ConfigError(where, problems)
    point = Point((), entry, cluster, model, gpus, trainer, variant, entry.seed[0], choices=())
    cell = build_at(study, point, where, Layer(changes))
    try:
        cell.run.distributed.data_parallel(gpus)  # not every check: the cell need not run here
    except RuleError as error:
        raise ConfigError(where, [error.problem()]) from None
    return cell


@dataclass(frozen=True)
class Alternatives:
    """A cell on each of the clusters on which it may run."""

    where: KeyPath
    """Its block."""
    candidates: tuple[str, ...]
    """All clusters that its block names for it; none if a cluster was chosen already."""
    leads: bool
    """A cluster is chosen for it, not for the cell that it starts from."""
    cells: list[Cell]
    """One, unless a cluster is to be chosen."""
    impossible: dict[str, Prospect]
    """Its other clusters, on which it cannot run."""


def alternatives(study: Study) -> Iterator[Alternatives]:
    """Yield each cell of a valid grid on the clusters of which one is to be chosen for it."""
    for point in points(study):
        found = [on for on in options(study, point) if meets_condition(study, on)]
        if not found:
            continue
        cells = [build_at(study, on) for on in found]
        candidates = () if placement_of(study, point) else point.candidates
        impossible = {}
        for name in candidates:
            if all(cell.cluster != name for cell in cells):
                reason = study.clusters[name].why_impossible(name, point.gpus)
                impossible[name] = Prospect(impossible=reason or "left out by `where`")
        yield Alternatives(point.where, candidates, point.leader is point, cells, impossible)


def build_at(study: Study, point: Point, source: str = "", changes: Layer | None = None) -> Cell:
    """Return the cell at a point.

    Raises ConfigError with `source`, or else the block, if its settings are invalid.
    """
    run, facts = settle_run(study, point, source or format_path(point.where), changes)
    return cell_at(study, point, run, facts)


def cell_at(study: Study, point: Point, run: RunConfig, facts: CellFacts) -> Cell:
    """Return the cell at a point, with the run's settings and their facts."""
    overrides = [choice.overrides for choice in point.choices]
    start = start_of(study, point, facts) if point.trunk else None
    return Cell(
        **point.labels,
        measure=point.entry.measure,
        cluster_config=study.clusters[point.cluster],
        run=run,
        overrides=merge(study.variants.get(point.named_variant, {}), *overrides),
        named_variant=point.named_variant,
        trainer=point.trainer,
        trainer_config=study.trainers[point.trainer],
        choices=point.choices,
        length=point.length,
        trunk=start.run.dump_dir if start else None,
        start_step=start.step if start else 0,
        placement=point.leader.name if point.candidates else None,
    )
