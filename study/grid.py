"""The grid: a study's cells, each with the complete config of its run; a pure function."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from study.axes import Choice, combinations, name_variant
from study.config import CORPORA, Branch, ClusterConfig, GridEntry, Study, brace_in
from study.expressions import ExpressionError, to_whole
from study.facts import CellFacts, NotKnownError
from study.horizon import whole_steps
from trainer.config import ConfigError, DataConfig, RunConfig, digest, merge, suggest, validate
from trainer.execution.choices import is_compiled
from trainer.flops import count_parameters, flops_per_token
from trainer.layers import Layer, Merged
from trainer.problems import KeyPath, Problem, RuleError, format_path
from trainer.records import CHECKPOINTS, checkpoint_name
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

MOST_OF_A_KEY = 3
"""Most problems that are reported with one key, which every cell may have in another way."""

MANAGED = {
    "name": "the cell's folder names the run",
    "dump_dir": "the cell's folder is the run's",
    "seed": "seeds are an axis of the grid",
    "device": "set it in the cluster",
    "gpu_name": "set it in the cluster",
    "model": "shapes are in the models file; a variant or sweep may override them",
}
"""Key of a run.yaml that `run` may not set -> the reason."""

ONE_FOLDER = "the runs of a cluster share one folder; set it in run or clusters_run"
"""Why data.root_dir is not set by variants and sweeps."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    cluster: str
    model: str
    gpus: int
    variant: str
    """Its variant, with the values of the axes that its block adds: `decay+lr-0.001`."""
    seed: int
    measure: bool
    """False: the cell is estimated and never run."""
    cluster_config: ClusterConfig
    """The cluster's settings."""
    run: RunConfig
    """The complete settings of the run."""
    overrides: dict[str, Any]
    """The overrides of its variant and the values of those axes."""
    length: Choice | None = None
    """The length of the run, if its block sets one."""
    trunk: str | None = None
    """Folder of the run from whose checkpoint this one starts."""
    start_step: int = 0
    """Step of that checkpoint; 0 without one."""

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
        return self.cluster_config.nodes(self.gpus)

    @property
    def params(self) -> int:
        """Parameter count of the model."""
        return count_parameters(self.run.model, self.run.data.tokenizer.vocab_size).total

    @property
    def wanted_tokens(self) -> float | None:
        """Tokens that the run's length asks for, before they are rounded to whole steps; None if it
        is set in steps."""
        if self.length is None:
            return None
        data = self.run.data
        flops = flops_per_token(self.run.model, data.tokenizer.vocab_size, data.seq_len)
        return self.length.tokens(self.params, flops)

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
            _build_cell(study, point, format_path(point.where))
            for point in _points(study)
            if _meets_condition(study, point)
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
        for source in cell.run.data.sources:
            is_first = reading == self._first_readings[source]
            names.append(source if is_first else f"{digest(reading)[:6]}/{source}")
        return names

    @cached_property
    def _first_readings(self) -> dict[str, dict[str, Any]]:
        readings: dict[str, dict[str, Any]] = {}
        for cell in self:
            for source in cell.run.data.sources.keys() - readings.keys():
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


def find_problems(study: Study, known: Mapping[str, Sequence[str]]) -> list[Problem]:
    """Return the problems with the grid of a study whose keys are valid.

    `known` holds the names in the models and clusters files, valid or not; a file that cannot be
    read is not in it.
    """
    problems = _managed(("run",), study.run)
    for cluster, settings in study.clusters_run.items():
        where = ("clusters_run", cluster)
        if "clusters" in known and cluster not in known["clusters"]:
            message = f"unknown cluster '{cluster}'; {suggest(cluster, known['clusters'])}"
            problems.append(Problem(where, message))
        problems += _managed(where, settings)
    if "base" in study.variants:
        taken = "reserved name; 'base' is the run without overrides"
        problems.append(Problem(("variants", "base"), taken))
    for variant, overrides in study.variants.items():
        data = overrides.get("data")
        if isinstance(data, Mapping) and "root_dir" in data:
            path = ("variants", variant, "data", "root_dir")
            problems.append(Problem(path, ONE_FOLDER))
    for corpus in study.corpora:
        if corpus not in CORPORA:
            message = f"unknown corpus '{corpus}'; {suggest(corpus, CORPORA)}"
            problems.append(Problem(("corpora",), message))
    names = {**known, "variants": ["base", *study.variants]}
    for index, entry in enumerate(study.grid):
        problems += _unknown_names(("grid", index), entry, names)
        problems += _unsweepable(("grid", index, "sweep"), entry)
    count = sum(entry.combinations for entry in study.grid)
    if count > MOST_CELLS:
        message = f"found {count:,} cells; expected {MOST_CELLS:,} or fewer"
        return [*problems, Problem(("grid",), message)]
    counts: Counter[KeyPath] = Counter()
    for problem in dict.fromkeys(_problems_of_points(study)):
        counts[problem.path] += 1
        if counts[problem.path] <= MOST_OF_A_KEY:
            problems.append(problem)
    return list(dict.fromkeys(problems))


def _managed(where: KeyPath, settings: Mapping[str, Any]) -> list[Problem]:
    return [
        Problem((*where, key), f"cannot be set here; {reason}")
        for key, reason in MANAGED.items()
        if key in settings
    ]


def _unsweepable(where: KeyPath, entry: GridEntry) -> Iterator[Problem]:
    for key in entry.sweep:
        reason = ONE_FOLDER if key in ("data", "data.root_dir") else MANAGED.get(key)
        if reason:
            yield Problem((*where, key), f"cannot be swept; {reason}")


@dataclass(frozen=True)
class _Point:
    """One combination of an entry's axes, before validation."""

    where: KeyPath
    entry: GridEntry
    cluster: str
    model: str
    gpus: int
    named_variant: str
    seed: int
    choices: tuple[Choice, ...]
    trunk: "_Point | None" = None
    """The cell from which it starts, if its block names one that exists."""

    @property
    def variant(self) -> str:
        """The variant's name in the cell's."""
        return name_variant(self.named_variant, self.choices)

    @property
    def labels(self) -> dict[str, Any]:
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def length(self) -> Choice | None:
        return next((choice for choice in self.choices if choice.is_length), None)

    def at(self, choice: Choice) -> KeyPath:
        """Return the key in the study file of a choice."""
        return (*self.where, *choice.where)


def _points(study: Study) -> list[_Point]:
    """Return the combinations of all blocks, also those that `where` excludes."""
    points = [
        _Point(("grid", index), entry, *values)
        for index, entry in enumerate(study.grid)
        for values in combinations(entry, AXES)
    ]
    if all(entry.from_ is None for entry in study.grid):
        return points
    by_name = {CELL_NAME.format(**point.labels): point for point in points}
    return [_with_trunk(point, by_name) for point in points]


def _with_trunk(point: _Point, by_name: Mapping[str, _Point], *branches: str) -> _Point:
    """Return a point with the one from which it starts; without one that starts from it again."""
    branch = point.entry.from_
    if branch is None:
        return point
    name = _trunk_name(point, branch)
    branches = (*branches, CELL_NAME.format(**point.labels))
    trunk = None if name in branches else by_name.get(name)
    return point if trunk is None else replace(point, trunk=_with_trunk(trunk, by_name, *branches))


def _trunk_name(point: _Point, branch: Branch) -> str:
    whole = branch.cell if "/" in branch.cell else None
    return whole or CELL_NAME.format(**{**point.labels, "variant": branch.cell})


def _is_known(study: Study, point: _Point) -> bool:
    """Return whether a point's names are those of valid clusters, models and variants."""
    variants = ("base", *study.variants)
    known = point.cluster in study.clusters and point.model in study.models
    return known and point.named_variant in variants


def _meets_condition(study: Study, point: _Point) -> bool:
    """Return whether a cell of known names meets its block's `where`. Raises ConfigError."""
    text = point.entry.where
    if text is None:
        return True
    key = (*point.where, "where")
    try:
        value = _facts(study, point).evaluate(text)
        if isinstance(value, bool):
            return value
        message = f"found {value!r}; expected a condition such as params < 1e9"
    except NotKnownError:
        return True  # what is wrong with the cell's settings is reported
    except ExpressionError as error:
        message = str(error)
    raise ConfigError(format_path(point.where), [Problem(key, message)])


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


def _problems_of_points(study: Study) -> Iterator[Problem]:
    seen: dict[tuple[Any, ...], KeyPath] = {}
    texts = _Texts(study)
    excluded: dict[KeyPath, bool] = {}
    for point in _points(study):
        try:
            excluded.setdefault(point.where, True)
            if _is_known(study, point) and not _meets_condition(study, point):
                continue
            excluded[point.where] = False
            yield from _problems_of_point(study, point, seen, texts)
        except ConfigError as error:
            excluded[point.where] = False
            yield from error.problems
    for where in (where for where, everything in excluded.items() if everything):
        yield Problem((*where, "where"), "excludes every cell of the block")


def _problems_of_point(
    study: Study, point: _Point, seen: dict[tuple[Any, ...], KeyPath], texts: "_Texts"
) -> list[Problem]:
    """Return the problems with a cell. Raises ConfigError if its settings are invalid."""
    labels = tuple(point.labels.values())
    if labels in seen:
        name, first = "/".join(map(str, labels)), format_path(seen[labels])
        message = f"duplicate cell {name}, already in {first}; remove it or give it its own variant"
        return [Problem(point.where, message)]
    seen[labels] = point.where
    if not _is_known(study, point):
        return []
    reason = why_impossible(point.cluster, study.clusters[point.cluster], point.gpus)
    if reason:
        return [Problem((*point.where, "gpus"), reason)]
    run, facts = _settle_run(study, point, format_path(point.where))
    found = [*run.find_problems(point.gpus), *texts.problems(run), *_wildcards(run)]
    problems = [facts.settings.trace(problem) for problem in found]
    return problems + _problems_of_start(study, point, run, facts)


def _problems_of_start(
    study: Study, point: _Point, run: RunConfig, facts: CellFacts
) -> list[Problem]:
    """Return why a cell cannot start from the checkpoint that it names."""
    if point.trunk is None:
        return []
    start, trunk = _start(study, point, facts), point.trunk
    name, key = CELL_NAME.format(**trunk.labels), (*point.where, "from")
    if not trunk.entry.measure or not _meets_condition(study, trunk):
        return [Problem((*key, "cell"), f"{name} is never run; expected a cell that is trained")]
    if start.step >= run.steps:
        found = f"found step {start.step:,} of {name}, and {run.steps:,} steps in all"
        message = f"{found}; expected fewer: `steps` counts those before the start, too"
        return [Problem((*key, "at"), message)]
    reason = _why_not_kept(start)
    if reason:
        return [Problem((*key, "at"), f"{name} {reason}")]
    theirs, own = start.run.settings_of_continued(), run.settings_of_continued()
    return [
        Problem((*key, "cell"), f"{name} has {item} = {theirs[item]}; expected {value}, as here")
        for item, value in own.items()
        if theirs[item] != value and None not in (theirs[item], value)
    ]


def _why_not_kept(start: "_Start") -> str | None:
    """Return why the checkpoint does not exist when its run is complete, or None if it does."""
    step, run = start.step, start.run
    if run.checkpoint is None:
        return "saves no checkpoints; expected checkpoint: {dump: {every: ..., keep: 0}} for it"
    if not 1 <= step <= run.steps:
        return f"has {run.steps:,} steps; found step {step:,}"
    if step == run.steps:
        return None
    periods = []
    for kind in (run.checkpoint.dump, run.checkpoint.eval):
        if kind.every is not None:
            later = -(-run.steps // kind.every) - step // kind.every
            if step % kind.every == 0 and (kind.keep <= 0 or later < kind.keep):
                return None
            periods.append(
                f"every {kind.every:,} steps and keeps {kind.keep if kind.keep > 0 else 'all'}"
            )
    found = " or ".join(periods) or "only at its end"
    expected = f"a divisor of {step:,} as checkpoint.dump.every, and keep: 0, for it"
    return f"does not keep a checkpoint of step {step:,}, as it saves {found}; expected {expected}"


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
    point = _Point((), entry, cluster, model, gpus, variant, entry.seed[0], choices=())
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
    run, facts = _settle_run(study, point, source, changes)
    overrides = [choice.overrides for choice in point.choices]
    start = _start(study, point, facts) if point.trunk else None
    return Cell(
        **point.labels,
        measure=point.entry.measure,
        cluster_config=study.clusters[point.cluster],
        run=run,
        overrides=merge(study.variants.get(point.named_variant, {}), *overrides),
        length=point.length,
        trunk=start.run.dump_dir if start else None,
        start_step=start.step if start else 0,
    )


def _settle_run(
    study: Study, point: _Point, source: str, changes: Mapping[str, Any] | None = None
) -> tuple[RunConfig, CellFacts]:
    """Return the run at a point, and its facts with the study's key for each setting.

    Raises ConfigError with `source` if its settings are invalid.
    """
    branch = point.entry.from_
    if branch is not None and point.trunk is None:
        found = f"found no cell {_trunk_name(point, branch)} to start from"
        message = f"{found}; expected another one of the grid, which does not start from this one"
        raise ConfigError(source, [Problem((*point.where, "from", "cell"), message)])
    facts = _facts(study, point, changes)
    settings = facts.settle()
    try:
        run = validate(RunConfig, settings, source)
        problems = facts.problems()
    except ConfigError as error:
        problems = facts.problems(error.problems)
    if problems:
        raise ConfigError(source, problems)
    return run, facts


@dataclass(frozen=True)
class _Start:
    """The checkpoint from which a cell starts."""

    run: RunConfig
    """The run that writes it."""
    gpus: int
    step: int

    @property
    def settings(self) -> dict[str, Any]:
        """The settings to start from it."""
        own = self.run.checkpoint.path if self.run.checkpoint else None
        folder = own or f"{self.run.dump_dir}/{CHECKPOINTS}"
        return {
            "continue_from": f"{folder}/{checkpoint_name(self.step)}",
            "continue_run": f"{self.run.trajectory(self.gpus)}-{self.step}",
        }


def _start(study: Study, point: _Point, facts: CellFacts) -> _Start:
    """Return the checkpoint from which a cell starts. Raises ConfigError."""
    trunk, branch = point.trunk, point.entry.from_
    assert trunk is not None and branch is not None
    run, _ = _settle_run(study, trunk, format_path(trunk.where))
    if branch.share is not None:
        return _Start(run, trunk.gpus, to_whole(branch.share * run.steps))
    try:
        step = facts.evaluate(branch.at) if isinstance(branch.at, str) else branch.at
        if isinstance(step, bool) or not isinstance(step, int | float):
            raise ExpressionError(f"found {step!r}; expected a step, or a percentage such as 80%")
    except ExpressionError as error:
        problem = Problem((*point.where, "from", "at"), str(error))
        raise ConfigError(format_path(point.where), [problem]) from None
    return _Start(run, trunk.gpus, to_whole(step))


def _derive_start(study: Study, point: _Point, facts: CellFacts) -> Layer:
    settings = {"checkpoint": _start(study, point, facts).settings}
    return Layer(settings, prefix=(*point.where, "from"), derived=True)


def _facts(study: Study, point: _Point, changes: Mapping[str, Any] | None = None) -> CellFacts:
    """Return the settings of the run at a point, with expressions not computed yet.

    A global batch and a length in tokens or FLOPs are derived from them.
    """
    nodes = study.clusters[point.cluster].nodes(point.gpus)
    axes = {**point.labels, "variant": point.named_variant, "nodes": nodes}
    derived: dict[tuple[KeyPath, ...], Callable[[CellFacts], Layer]] = {}
    if point.entry.global_batch_size is not None:
        keys: tuple[KeyPath, ...] = (("data", "batch_size"), ("grad_acc_steps",))
        derived[keys] = lambda facts: _derive_batch(point, facts)
    if point.length is not None:
        length = point.length
        derived[(("steps",),)] = lambda facts: _derive_steps(point, length, facts)
    if point.trunk is not None:
        keys = (("checkpoint", "continue_from"), ("checkpoint", "continue_run"))
        derived[keys] = lambda facts: _derive_start(study, point, facts)
    return CellFacts(_merge_settings(study, point, changes), axes, derived)


def _derive_batch(point: _Point, facts: CellFacts) -> Layer:
    facts.as_written(("data", "batch_size"))
    facts.value(("distributed", "tp_size"))
    key = (*point.where, "global_batch_size")
    return Layer(_split_batch(point, facts.settings, key), prefix=key, derived=True)


def _derive_steps(point: _Point, length: Choice, facts: CellFacts) -> Layer:
    """Return the steps of a length."""
    steps = length.value
    if length.key != "steps":
        tokens = length.tokens(facts.lookup("params"), facts.lookup("flops_per_token"))
        assert tokens is not None
        steps = whole_steps(tokens, facts.lookup("tokens_per_step"))
    return Layer({"steps": steps}, prefix=point.at(length), derived=True)


def _merge_settings(
    study: Study, point: _Point, changes: Mapping[str, Any] | None = None
) -> Merged:
    """Return the settings of the run at a point, with the study's key for each."""
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
    of_cluster = study.clusters_run.get(point.cluster, {})
    variant = study.variants.get(point.named_variant, {})
    # If keys contradict each other, the problem names the one from the last layer.
    layers = [
        Layer(shared, prefix=("run",)),
        Layer(shape, at=("model",), prefix=("models", point.model)),
        Layer(_without_managed(study.run), prefix=("run",)),
        Layer(_without_managed(of_cluster), prefix=("clusters_run", point.cluster)),
        Layer(cell, prefix=point.where),
        Layer(variant, prefix=("variants", point.named_variant)),
        *(
            Layer(choice.overrides, prefix=point.at(choice), derived=True)
            for choice in point.choices
            if not choice.is_length
        ),
        Layer(changes or {}),
    ]
    settings = Merged(layers)
    checkpoints = settings.values.get("checkpoint")
    common = checkpoints.get("path") if isinstance(checkpoints, Mapping) else None
    if not isinstance(common, str):
        return settings
    # Below the folder that the study names, each run has its own.
    own = {"checkpoint": {"path": f"{common}/{cell['name']}"}}
    return settings.over(Layer(own, prefix=("run", "checkpoint", "path"), derived=True))


def _without_managed(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in MANAGED}


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
