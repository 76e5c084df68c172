"""The grid: a study's cells, each with the complete config of its run; a pure function."""

import itertools
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from study.config import CORPORA, ClusterConfig, GridEntry, Study, brace_in
from trainer.config import ConfigError, RunConfig, suggest, validate
from trainer.execution.choices import is_compiled
from trainer.flops import count_parameters
from trainer.layers import Layer, Merged
from trainer.problems import KeyPath, Problem, RuleError, format_path
from trainer.tokens.text_files import HELD_OUT_FILES, TextFiles, find_text_files

AXES = ("cluster", "model", "gpus", "variant", "seed")
"""The axes of a grid, from the slowest to the fastest varying."""

CELL_NAME = "{cluster}/{model}/gpus-{gpus}/{variant}/seed-{seed}"
"""Name of a cell, for people, folders and messages. It is never parsed."""

RUN_FOLDER = f"runs/{CELL_NAME}"
"""Folder of a run, relative to its study's folder."""

LARGEST_BATCH = 1_000_000
"""Most sequences of a micro-batch that a global batch is split into."""

MOST_CELLS = 10_000
"""Most cells of a study."""

MANAGED = {
    "name": "the cell's folder names the run",
    "dump_dir": "the cell's folder is the run's",
    "seed": "seeds are an axis of the grid",
    "device": "set it in the cluster",
    "gpu_name": "set it in the cluster",
    "model": "shapes are in the models file; a variant may override them",
}
"""Key of a run.yaml that `run` may not set -> the reason."""


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
    cluster_config: ClusterConfig
    """The cluster's settings."""
    run: RunConfig
    """The complete settings of the run."""

    @property
    def labels(self) -> dict[str, Any]:
        """Axis -> value: the wildcards of a run's folder."""
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def name(self) -> str:
        """Name for people and messages."""
        return CELL_NAME.format(**self.labels)

    @property
    def folder(self) -> str:
        """The run's folder."""
        return self.run.dump_dir

    @property
    def nodes(self) -> int:
        """Number of nodes of the run."""
        return -(-self.gpus // self.cluster_config.gpus_per_node)

    @property
    def params(self) -> int:
        """Parameter count of the model."""
        return count_parameters(self.run.model, self.run.data.tokenizer.vocab_size).total

    @property
    def compiled(self) -> bool:
        """Whether the run's blocks are compiled."""
        return is_compiled(self.run.distributed, self.run.device)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the run's settings and GPU count; see `RunConfig.fingerprint`."""
        return self.run.fingerprint(self.gpus)

    @cached_property
    def speed_key(self) -> str:
        """Digest of the settings that can change the run's speed; see `RunConfig.speed_key`."""
        return self.run.speed_key(self.gpus)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.run.tokens_per_step(self.gpus)


class Grid(Sequence[Cell]):
    """All cells of a study, in the order of the study file."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._cells = [
            _build_cell(study, point, format_path(point.where)) for point in _points(study)
        ]
        self._by_labels = {tuple(str(v) for v in cell.labels.values()): cell for cell in self}

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, index: Any) -> Any:
        return self._cells[index]

    def at(self, wildcards: Any) -> Cell:
        """Return the cell of a rule's wildcards."""
        w = wildcards
        return self._by_labels[(w.cluster, w.model, w.gpus, w.variant, w.seed)]

    @property
    def measured(self) -> list[Cell]:
        """The cells to run."""
        return [cell for cell in self if cell.measure]

    @property
    def configurations(self) -> list[Cell]:
        """The first cell of each (cluster, model, gpus, variant), whose seeds are repetitions."""
        first: dict[tuple[str, str, int, str], Cell] = {}
        for cell in self:
            first.setdefault((cell.cluster, cell.model, cell.gpus, cell.variant), cell)
        return list(first.values())

    @property
    def sources(self) -> dict[str, RunConfig]:
        """Source of text -> settings of a run that reads it."""
        return {source: cell.run for cell in self for source in cell.run.data.sources}

    @property
    def data_root(self) -> str:
        """Folder of the sources' text."""
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


def find_problems(study: Study, known: Mapping[str, Sequence[str]]) -> list[Problem]:
    """Return the problems with the grid of a study whose keys are valid.

    `known` holds the names in the models and clusters files, valid or not; a file that cannot be
    read is not in it.
    """
    problems = [
        Problem(("run", key), f"cannot be set here; {reason}")
        for key, reason in MANAGED.items()
        if key in study.run
    ]
    if "base" in study.variants:
        taken = "reserved name; 'base' is the run without overrides"
        problems.append(Problem(("variants", "base"), taken))
    for variant, overrides in study.variants.items():
        data = overrides.get("data")
        if isinstance(data, Mapping) and "root_dir" in data:
            path = ("variants", variant, "data", "root_dir")
            problems.append(Problem(path, "all runs of a study share one folder"))
    for corpus in study.corpora:
        if corpus not in CORPORA:
            message = f"unknown corpus '{corpus}'; {suggest(corpus, CORPORA)}"
            problems.append(Problem(("corpora",), message))
    names = {**known, "variants": ["base", *study.variants]}
    for index, entry in enumerate(study.grid):
        problems += _unknown_names(("grid", index), entry, names)
    count = sum(math.prod(len(getattr(entry, axis)) for axis in AXES) for entry in study.grid)
    if count > MOST_CELLS:
        message = f"found {count:,} cells; expected {MOST_CELLS:,} or fewer"
        return [*problems, Problem(("grid",), message)]
    seen: dict[tuple[Any, ...], KeyPath] = {}
    texts = _Texts(study)
    for point in _points(study):
        problems += _problems_of_point(study, point, seen, texts)
    return list(dict.fromkeys(problems))


@dataclass(frozen=True)
class _Point:
    """One combination of an entry's axes, before validation."""

    where: KeyPath
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
            yield _Point(("grid", index), entry, *values)


def why_impossible(name: str, cluster: ClusterConfig, gpus: int) -> str | None:
    """Return why a run on `gpus` GPUs is impossible on a cluster, or None if it is possible."""
    per_node = cluster.gpus_per_node
    nodes = cluster.slurm.max_nodes if cluster.slurm else 1
    if gpus > per_node * nodes:
        held = f"{nodes} x {per_node}" if nodes > 1 else str(per_node)
        return f"found {gpus} GPUs; a run on cluster '{name}' can have at most {held}"
    if gpus > per_node and gpus % per_node:
        return f"found {gpus} GPUs; several nodes of '{name}' need a multiple of {per_node}"
    return None


def _unknown_names(
    where: KeyPath, entry: GridEntry, known: Mapping[str, Sequence[str]]
) -> Iterator[Problem]:
    axes = (("cluster", "clusters"), ("model", "models"), ("variant", "variants"))
    for axis, table in axes:
        for name in getattr(entry, axis):
            if table in known and name not in known[table]:
                message = f"unknown {axis} '{name}'; {suggest(name, known[table])}"
                yield Problem((*where, axis), message)


def _problems_of_point(
    study: Study, point: _Point, seen: dict[tuple[Any, ...], KeyPath], texts: "_Texts"
) -> list[Problem]:
    labels = tuple(point.labels.values())
    if labels in seen:
        name, first = "/".join(map(str, labels)), format_path(seen[labels])
        message = f"duplicate cell {name}, already in {first}; remove it or give it its own variant"
        return [Problem(point.where, message)]
    seen[labels] = point.where
    if point.cluster not in study.clusters or point.model not in study.models:
        return []
    if point.variant != "base" and point.variant not in study.variants:
        return []
    reason = why_impossible(point.cluster, study.clusters[point.cluster], point.gpus)
    if reason:
        return [Problem((*point.where, "gpus"), reason)]
    try:
        settings = _merge_settings(study, point)
        run = validate(RunConfig, settings, format_path(point.where))
    except ConfigError as error:
        return list(error.problems)
    found = [*run.find_problems(point.gpus), *texts.problems(run), *_wildcards(run)]
    return [settings.trace(problem) for problem in found]


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
    """Return a cell outside the grid, from the study's names, with changes to its run's settings.

    Raises ConfigError with source `where` if a name is unknown or the settings are invalid.
    """
    axes = {"cluster": [cluster], "model": [model], "gpus": [gpus], "variant": [variant]}
    entry = validate(GridEntry, axes, where)
    names = {
        "clusters": list(study.clusters),
        "models": list(study.models),
        "variants": ["base", *study.variants],
    }
    problems = list(_unknown_names((), entry, names))
    if problems:
        raise ConfigError(where, problems)
    point = _Point((), entry, cluster, model, gpus, variant, seed=entry.seed[0])
    cell = _build_cell(study, point, where, changes)
    try:
        cell.run.distributed.data_parallel(gpus)  # not every check: the cell need not run here
    except RuleError as error:
        raise ConfigError(where, [error.problem()]) from None
    return cell


def _build_cell(
    study: Study, point: _Point, source: str, changes: Mapping[str, Any] | None = None
) -> Cell:
    """Return the cell at a point; raise ConfigError with `source` if its settings are invalid."""
    settings = _merge_settings(study, point, changes)
    run = validate(RunConfig, settings, source)
    cluster_config = study.clusters[point.cluster]
    return Cell(**point.labels, measure=point.entry.measure, cluster_config=cluster_config, run=run)


def _merge_settings(
    study: Study, point: _Point, changes: Mapping[str, Any] | None = None
) -> Merged:
    """Return the settings of the run at a point, with the study's key for each.

    Raises ConfigError if the global batch cannot be split.
    """
    folder = f"{study.folder}/{RUN_FOLDER.format(**point.labels)}"
    cluster = study.clusters[point.cluster]
    cell = {
        "device": cluster.device,
        "gpu_name": cluster.gpu_name if cluster.device == "cuda" else None,
        "dump_dir": folder,
        "name": folder.removeprefix(f"{study.results_dir}/"),
        "seed": point.seed,
    }
    shared = {
        "data": {"shards_dir": f"{study.results_dir}/shards"},
        "distributed": {
            "compile_cache": f"{study.results_dir}/compile_cache",
            "threads": cluster.cpus_per_gpu,
        },
    }
    shape = study.models[point.model].model_dump(exclude_unset=True)
    run = {key: value for key, value in study.run.items() if key not in MANAGED}
    variant = study.variants.get(point.variant, {})
    # If keys contradict each other, the problem names the one from the last layer.
    layers = [
        Layer(shared, prefix=("run",)),
        Layer(shape, at=("model",), prefix=("models", point.model)),
        Layer(run, prefix=("run",)),
        Layer(cell, prefix=point.where),
        Layer(variant, prefix=("variants", point.variant)),
        Layer(changes or {}),
    ]
    settings = Merged(layers)
    checkpoints = settings.values.get("checkpoint")
    common = checkpoints.get("path") if isinstance(checkpoints, Mapping) else None
    if isinstance(common, str):
        # Below the folder that the study names, each run has its own.
        own = {"checkpoint": {"path": f"{common}/{cell['name']}"}}
        settings = settings.over(Layer(own, prefix=("run", "checkpoint", "path"), derived=True))
    if point.entry.global_batch_size is None:
        return settings
    key = (*point.where, "global_batch_size")
    return settings.over(Layer(_split_batch(point, settings, key), prefix=key, derived=True))


def _split_batch(point: _Point, settings: Merged, key: KeyPath) -> dict[str, Any]:
    """Return batch size and gradient accumulation for the entry's global batch on its GPUs.

    The GPUs of a tensor-parallel group have the same sequences.
    """
    total = point.entry.global_batch_size
    assert total is not None
    distributed = settings.values["distributed"]
    split: Any = distributed.get("tp_size", 1) if isinstance(distributed, Mapping) else None
    if type(split) not in (int, float) or split < 1 or point.gpus % split:
        return {}  # the run's settings are invalid
    replicas = point.gpus // int(split)
    if total % replicas:
        over = f"{point.gpus} GPUs"
        if split > 1:
            over = f"{replicas} groups of {int(split)} tensor-parallel GPUs"
        message = f"{total} sequences cannot be split over {over}"
        raise ConfigError(format_path(point.where), [Problem(key, message)])
    share = total // replicas
    data = settings.values["data"]
    largest: Any = data.get("batch_size", share) if isinstance(data, Mapping) else None
    if type(largest) not in (int, float) or not 1 <= largest < float("inf"):
        return {}  # the run's settings are invalid
    start = min(int(largest), share)
    if start > LARGEST_BATCH:
        found = f"found {total:,}, in micro-batches of up to {start:,} sequences"
        message = f"{found}; expected at most {LARGEST_BATCH:,}"
        raise ConfigError(format_path(point.where), [Problem(key, message)])
    fits = next(size for size in range(start, 0, -1) if share % size == 0)
    return {"data": {"batch_size": fits}, "grad_acc_steps": share // fits}


class _Texts:
    """The text files of sources, listed once for all cells of a study."""

    def __init__(self, study: Study) -> None:
        self._corpora = study.corpora
        self._found: dict[tuple[str, str], TextFiles | str] = {}

    def problems(self, run: RunConfig) -> list[Problem]:
        """Return the problems with the text of a run's sources, except those that a rule creates.

        The validation loss needs held-out text in one of the sources.
        """
        root = run.data.root_dir
        given = [source for source in run.data.sources if source not in self._corpora]
        problems, has_held_out = [], len(given) < len(run.data.sources)
        for source in given:
            files = self._find(root, source)
            if isinstance(files, str):
                problems.append(Problem(("data", "sources", source), files))
            else:
                has_held_out |= bool(files.held_out)
        if run.eval is not None and not problems and not has_held_out:
            folders = ", ".join(f"{root}/{source}" for source in given)
            expected = f"expected {HELD_OUT_FILES} there, or eval: null"
            problems.append(Problem(("eval",), f"found no held-out text in {folders}; {expected}"))
        return problems

    def _find(self, root: str, source: str) -> TextFiles | str:
        """Return the text files of a source, or what is wrong with them."""
        if (root, source) not in self._found:
            self._found[root, source] = _list_texts(root, source)
        return self._found[root, source]


def _list_texts(root: str, source: str) -> TextFiles | str:
    if not _may_be_folder(Path(root, source)):
        expected = f"expected *.chunk.*.jsonl files there, or '{source}' among corpora"
        return f"the folder {root}/{source} does not exist; {expected}"
    try:
        return find_text_files(Path(root), source)
    except ConfigError as error:
        return f"{error.source}: {error.problems[0].message}"


def _may_be_folder(path: Path) -> bool:
    """Return whether a path is a folder; true also if that cannot be found out."""
    try:
        return path.is_dir()
    except OSError:  # too long, or in a folder that may not be searched: reading it says so
        return True


def _wildcards(run: RunConfig) -> list[Problem]:
    """Return a problem for each path of a run's data that Snakemake would read as a pattern."""
    paths: dict[KeyPath, str] = {("data", "sources", source): source for source in run.data.sources}
    paths[("data", "root_dir")] = run.data.root_dir
    paths[("data", "tokenizer", "path")] = run.data.tokenizer.path or ""
    return [Problem(key, error) for key, path in paths.items() if (error := brace_in(path))]
