"""The grid: a study's cells, each with the complete config of its run; a pure function of it."""

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from study.config import CORPORA, ClusterConfig, GridEntry, Study
from study.launch import refusal
from trainer.choices import is_compiled
from trainer.config import ConfigError, RunConfig, merge, suggest, validate
from trainer.flops import count_parameters

AXES = ("cluster", "model", "gpus", "variant", "seed")
"""The axes of a grid, in the order in which they are varied."""

CELL_NAME = "{cluster}/{model}/gpus-{gpus}/{variant}/seed-{seed}"
"""Name of a cell, for people, folders and messages. It is made from the labels, never parsed."""

RUN_FOLDER = f"runs/{CELL_NAME}"
"""Folder of a run below its study's."""

MANAGED = {
    "name": "the cell's folder names the run",
    "dump_dir": "the cell's folder is the run's",
    "seed": "seeds are an axis of the grid",
    "device": "the cluster has it",
    "gpu_name": "the cluster has it",
    "model": "shapes stand in the models file; a variant may override them",
}
"""Keys of a run.yaml that `run` may not set, each with the reason."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    cluster: str
    model: str
    gpus: int
    variant: str
    seed: int
    measure: bool
    """False: the cell is estimated and never run."""
    place: ClusterConfig
    """The cluster's settings."""
    run: RunConfig
    """The complete settings of the run."""

    @property
    def labels(self) -> dict[str, Any]:
        """The axes' values, by name: the wildcards of a run's folder."""
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def name(self) -> str:
        """A name for people and messages."""
        return CELL_NAME.format(**self.labels)

    @property
    def folder(self) -> str:
        """The run's folder."""
        return self.run.dump_dir

    @property
    def nodes(self) -> int:
        """Nodes that the run needs."""
        return -(-self.gpus // self.place.gpus_per_node)

    @property
    def params(self) -> int:
        """Parameters of the model."""
        return count_parameters(self.run.model, self.run.data.tokenizer.vocab_size).total

    @property
    def compiled(self) -> bool:
        """Whether the run's blocks are compiled."""
        return is_compiled(self.run.distributed, self.run.device)

    @cached_property
    def speed_key(self) -> str:
        """What the run's speed depends on; see `RunConfig.speed_key`."""
        return self.run.speed_key(self.gpus)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.run.tokens_per_step(self.gpus)


class Grid(Sequence[Cell]):
    """All cells of a study, in the order of the study file."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._cells = [_build_cell(study, point) for point in _points(study)]
        self._by_labels = {tuple(str(v) for v in cell.labels.values()): cell for cell in self}

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, index: Any) -> Any:
        return self._cells[index]

    def at(self, wildcards: Any) -> Cell:
        """Return the cell that a rule's wildcards name."""
        w = wildcards
        return self._by_labels[(w.cluster, w.model, w.gpus, w.variant, w.seed)]

    @property
    def measured(self) -> list[Cell]:
        """The cells that are run."""
        return [cell for cell in self if cell.measure]

    @property
    def sources(self) -> dict[str, RunConfig]:
        """Every source of text, with the settings of a run that reads it."""
        return {source: cell.run for cell in self for source in cell.run.data.sources}

    @property
    def data_root(self) -> str:
        """Folder that holds the sources' text."""
        return str(self[0].run.data.root_dir)

    def tokenizing_options(self, source: str) -> str:
        """Return the options of the tokenising command for a source."""
        data = self.sources[source].data
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


def find_problems(study: Study, known: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what is wrong with the grid of a study whose keys are sound, a line for each problem.

    `known` holds the names that stand in the models and clusters files, sound or not.
    """
    problems = [
        f"run.{key}: not to be set here; {reason}"
        for key, reason in MANAGED.items()
        if key in study.run
    ]
    if "base" in study.variants:
        problems.append("variants.base: the name is taken; 'base' is the run without overrides")
    for variant, overrides in study.variants.items():
        if _holds(overrides, ("data", "root_dir")):
            problems.append(
                f"variants.{variant}.data.root_dir: all runs of a study share one folder"
            )
    for corpus in study.corpora:
        if corpus not in CORPORA:
            problems.append(f"corpora: unknown corpus '{corpus}'; {suggest(corpus, CORPORA)}")
    names = {**known, "variants": ["base", *study.variants]}
    for index, entry in enumerate(study.grid):
        problems += _unknown_names(f"grid[{index}]", entry, names)
    seen: dict[tuple[Any, ...], str] = {}
    for point in _points(study):
        problems += _problems_of_point(study, point, seen)
    return list(dict.fromkeys(problems))


@dataclass(frozen=True)
class _Point:
    """One combination of an entry's axes, before it is known to make sense."""

    where: str
    entry: GridEntry
    cluster: str
    model: str
    gpus: int
    variant: str
    seed: int

    @property
    def labels(self) -> dict[str, Any]:
        return {axis: getattr(self, axis) for axis in AXES}


def _points(study: Study) -> Iterator[_Point]:
    for index, entry in enumerate(study.grid):
        for values in itertools.product(*(getattr(entry, axis) for axis in AXES)):
            yield _Point(f"grid[{index}]", entry, *values)


def _unknown_names(
    where: str, entry: GridEntry, known: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    axes = (("cluster", "clusters"), ("model", "models"), ("variant", "variants"))
    for axis, table in axes:
        for name in getattr(entry, axis):
            if name not in known[table]:
                yield f"{where}.{axis}: unknown {axis} '{name}'; {suggest(name, known[table])}"


def _problems_of_point(study: Study, point: _Point, seen: dict[tuple[Any, ...], str]) -> list[str]:
    labels = tuple(point.labels.values())
    if labels in seen:
        name = "/".join(map(str, labels))
        return [
            f"{point.where}: the cell {name} stands in {seen[labels]} already; "
            "drop it, or give it a variant of its own"
        ]
    seen[labels] = point.where
    if point.cluster not in study.clusters or point.model not in study.models:
        return []
    if point.variant != "base" and point.variant not in study.variants:
        return []
    refused = refusal(point.cluster, study.clusters[point.cluster], point.gpus)
    if refused:
        return [f"{point.where}.gpus: {refused}"]
    try:
        cell = _build_cell(study, point)
        cell.run.check_processes(cell.gpus)
    except ConfigError as error:
        return [_attribute(study, point, line) for line in error.problems]
    return _missing_data(study, cell)


def build_cell(
    study: Study,
    where: str,
    *,
    cluster: str,
    model: str,
    gpus: int,
    variant: str = "base",
    changes: Mapping[str, Any] | None = None,
) -> Cell:
    """Return a cell beside the grid, of the study's names, with changes of its run's settings.

    Raises ConfigError, of `where`, for an unknown name or settings that are not sound.
    """
    entry = GridEntry(cluster=[cluster], model=[model], gpus=[gpus], variant=[variant])
    names = {
        "clusters": list(study.clusters),
        "models": list(study.models),
        "variants": ["base", *study.variants],
    }
    problems = [line.partition(".")[2] for line in _unknown_names("_", entry, names)]
    if problems:
        raise ConfigError(where, problems)
    point = _Point(where, entry, cluster, model, gpus, variant, seed=entry.seed[0])
    cell = _build_cell(study, point, changes)
    try:
        cell.run.distributed.data_parallel(gpus)  # what others measured need not run here
    except ValueError as error:
        raise ConfigError(where, [str(error)]) from None
    return cell


def _build_cell(study: Study, point: _Point, changes: Mapping[str, Any] | None = None) -> Cell:
    """Return the cell at a point; raise ConfigError if its run config is not sound."""
    folder = f"{study.folder}/{RUN_FOLDER.format(**point.labels)}"
    values = merge(
        {
            "data": {"shards_dir": f"{study.results_dir}/shards"},
            "distributed": {
                "compile_cache": f"{study.results_dir}/compile_cache",
                "threads": study.clusters[point.cluster].cpus_per_gpu,
            },
        },
        study.run,
        {
            "device": study.clusters[point.cluster].device,
            "gpu_name": _gpu_name(study.clusters[point.cluster]),
            "dump_dir": folder,
            "name": folder.removeprefix(f"{study.results_dir}/"),
            "seed": point.seed,
            "model": study.models[point.model].model_dump(),
        },
        study.variants.get(point.variant, {}),
    )
    values = merge(values, changes or {})
    if point.entry.global_batch_size is not None:
        values = merge(values, _split_batch(point, values))
    run = validate(RunConfig, values, point.where)
    place = study.clusters[point.cluster]
    return Cell(**point.labels, measure=point.entry.measure, place=place, run=run)


def _gpu_name(cluster: ClusterConfig) -> str | None:
    """Return the words that a run's GPU must have in its name."""
    return cluster.gpu_name if cluster.device == "cuda" else None


def _split_batch(point: _Point, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return batch and accumulation that make the entry's global batch on the point's GPUs."""
    total = point.entry.global_batch_size
    assert total is not None
    if total % point.gpus:
        problem = f"global_batch_size: {total} sequences cannot be split over {point.gpus} GPUs"
        raise ConfigError(point.where, [problem])
    share = total // point.gpus
    largest = values.get("data", {}).get("batch_size", share)
    fits = [n for n in range(1, share + 1) if share % n == 0 and n <= largest]
    return {"data": {"batch_size": fits[-1]}, "grad_acc_steps": share // fits[-1]}


def _attribute(study: Study, point: _Point, line: str) -> str:
    """Return a problem of a cell's run config under the key of the study file that brought it."""
    path, _, message = line.partition(": ")
    if path == "global_batch_size":
        return f"{point.where}.{line}"
    keys = path.split(".")
    if _holds(study.variants.get(point.variant, {}), keys):
        return f"variants.{point.variant}.{line}"
    if keys[0] == "model":
        return f"models.{point.model}{line.removeprefix('model')}"
    if message:
        return f"run.{line}"
    return f"run: {line}"


def _holds(mapping: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(mapping, Mapping) or key not in mapping:
            return False
        mapping = mapping[key]
    return True


def _missing_data(study: Study, cell: Cell) -> list[str]:
    """Name the data folders that neither exist nor are made by the workflow."""
    root = cell.run.data.root_dir
    return [
        f"run.data.sources.{source}: the folder {root}/{source} does not exist; expected "
        f"*.chunk.*.jsonl files there, or '{source}' among corpora"
        for source in cell.run.data.sources
        if source not in study.corpora and not Path(root, source).is_dir()
    ]
