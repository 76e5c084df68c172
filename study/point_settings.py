"""The settings of the run at a point of the grid, merged and derived from the study's keys."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from study.axes import Choice
from study.config import Study
from study.expressions import ExpressionError, percentage, to_whole
from study.facts import CellFacts, NotKnownError
from study.horizon import whole_steps
from study.points import RUN_FOLDER, Point, placement_of, points, trunk_name
from trainer.config import RunConfig
from trainer.layers import Layer, Merged
from trainer.paths import expand_path
from trainer.problems import ConfigError, KeyPath, Problem, format_path
from trainer.records import CHECKPOINTS, checkpoint_name
from trainer.settings import validate

MANAGED = {
    "name": "the cell's folder names the run",
    "dump_dir": "the cell's folder is the run's",
    "seed": "seeds are an axis of the grid",
    "device": "set it in the cluster",
    "gpu_name": "set it in the cluster",
    "model": "shapes are in the models file; a variant or sweep may override them",
}
"""Key of a run.yaml that `run` may not set -> the reason."""

LARGEST_BATCH = 1_000_000
"""Most sequences of a micro-batch that a global batch is split into."""

MOST_STEPS = 10**15
"""Most steps of a length in tokens or FLOPs; far more than any run has."""


def settle_run(
    study: Study, point: Point, source: str, changes: Layer | None = None
) -> tuple[RunConfig, CellFacts]:
    """Return the run at a point, and its facts with the study's key for each setting.

    Raises ConfigError with `source` if its settings are invalid.
    """
    branch = point.entry.from_
    if branch is not None and point.trunk is None:
        found = f"found no cell {trunk_name(point, branch)} to start from"
        message = f"{found}; expected another one of the grid, which does not start from this one"
        raise ConfigError(source, [Problem((*point.where, "from", "cell"), message)])
    facts = facts_of(study, point, changes)
    settings = facts.settle()
    try:
        run = validate(RunConfig, settings, source)
        problems = facts.problems()
    except ConfigError as error:
        problems = facts.problems(error.problems)
    if problems:
        raise ConfigError(source, problems)
    return run, facts


class SharedRuns:
    """The runs of a study's points, validated once for those that differ only in seed and name.

    Validation takes most of the time in which a study of many cells is loaded.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._settled: dict[tuple[Any, ...], tuple[RunConfig, CellFacts]] = {}

    def settle(self, point: Point, source: str) -> tuple[RunConfig, CellFacts]:
        """Return the run at a point, and the facts of one with the same settings; see
        `settle_run`."""
        batch_or_length = point.entry.global_batch_size is not None or point.length is not None
        gpus = point.gpus if batch_or_length else None
        key = (point.where, point.cluster, point.model, gpus, point.variant)
        if key in self._settled:
            run, facts = self._settled[key]
            return run.model_copy(update=_identity(self._study, point)), facts
        run, facts = settle_run(self._study, point, source)
        own_checkpoints = run.checkpoint is not None and run.checkpoint.path is not None
        if not (facts.has_expressions or own_checkpoints or point.trunk):
            self._settled[key] = run, facts
        return run, facts


@dataclass(frozen=True)
class Start:
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


def start_of(study: Study, point: Point, facts: CellFacts) -> Start:
    """Return the checkpoint from which a cell starts. Raises ConfigError."""
    trunk, branch = point.trunk, point.entry.from_
    assert trunk is not None and branch is not None
    run, _ = settle_run(study, trunk, format_path(trunk.where))
    if branch.percent is not None:
        return Start(run, trunk.gpus, to_whole(percentage(branch.percent, run.steps)))
    try:
        step = facts.evaluate(branch.at) if isinstance(branch.at, str) else branch.at
        if isinstance(step, bool) or not isinstance(step, int | float):
            raise ExpressionError(f"found {step!r}; expected a step, or a percentage such as 80%")
    except ExpressionError as error:
        problem = Problem((*point.where, "from", "at"), str(error))
        raise ConfigError(format_path(point.where), [problem]) from None
    return Start(run, trunk.gpus, to_whole(step))


def _derive_start(study: Study, point: Point, facts: CellFacts) -> Layer:
    settings = {"checkpoint": start_of(study, point, facts).settings}
    return Layer(settings, prefix=(*point.where, "from"), derived=True)


def facts_of(study: Study, point: Point, changes: Layer | None = None) -> CellFacts:
    """Return the settings of the run at a point, with expressions not computed yet.

    A global batch and a length in tokens or FLOPs are derived from them.
    """
    nodes = study.clusters[point.cluster].nodes(point.gpus)
    axes = {**point.labels, "variant": point.named_variant, "nodes": nodes}
    axes["trainer"] = point.trainer
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


def _derive_batch(point: Point, facts: CellFacts) -> Layer:
    facts.as_written(("data", "batch_size"))
    facts.value(("distributed", "tp_size"))
    key = (*point.where, "global_batch_size")
    return Layer(_split_batch(point, facts.settings, key), prefix=key, derived=True)


def _derive_steps(point: Point, length: Choice, facts: CellFacts) -> Layer:
    """Return the steps of a length."""
    steps = length.value
    if length.key != "steps":
        tokens = length.tokens(facts.lookup("params"), facts.lookup("flops_per_token"))
        assert tokens is not None
        steps = whole_steps(tokens, facts.lookup("tokens_per_step"))
        if steps > MOST_STEPS:
            message = (
                f"= {length.value} is {float(steps):.2g} steps; expected {MOST_STEPS:.0e} at most"
            )
            raise ConfigError(format_path(point.where), [Problem(point.at(length), message)])
    return Layer({"steps": steps}, prefix=point.at(length), derived=True)


def _merge_settings(study: Study, point: Point, changes: Layer | None = None) -> Merged:
    """Return the settings of the run at a point, with the study's key for each."""
    cluster = study.clusters[point.cluster]
    cell = {
        "device": cluster.device,
        "gpu_name": cluster.gpu_name if cluster.device == "cuda" else None,
        **_identity(study, point),
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
        changes or Layer({}),
    ]
    return _with_own_checkpoints(Merged(layers), cell["name"])


def _with_own_checkpoints(settings: Merged, name: str) -> Merged:
    """Return settings in which a folder of checkpoints, if they name one, has one for the run."""
    checkpoints = settings.values.get("checkpoint")
    common = checkpoints.get("path") if isinstance(checkpoints, Mapping) else None
    if not isinstance(common, str) or not common:
        return settings
    own = {"checkpoint": {"path": f"{common}/{name}"}}
    return settings.over(Layer(own, prefix=("run", "checkpoint", "path"), derived=True))


def _identity(study: Study, point: Point) -> dict[str, Any]:
    """Return the settings of a run that are those of no other cell."""
    folder = f"{study.folder}/{RUN_FOLDER.format(**point.labels)}"
    name = folder.removeprefix(f"{study.results_dir}/")
    return {"dump_dir": expand_path(folder), "name": name, "seed": point.seed}


def _without_managed(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in MANAGED}


def _split_batch(point: Point, settings: Merged, key: KeyPath) -> dict[str, Any]:
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


def options(study: Study, point: Point) -> list[Point]:
    """Return a point of known names on each cluster on which its cell may run: on the one of its
    placement if it has one. Raises ConfigError.

    Of several candidates, those have enough GPUs and meet the `where` of its block.
    """
    leader = point.leader
    if not point.candidates or placement_of(study, point) is not None:
        return [point]
    return [
        point.on(name)
        for name in point.candidates
        if study.clusters[name].why_impossible(name, leader.gpus) is None
        and meets_condition(study, leader.on(name))
    ]


def points_to_run(study: Study) -> Iterator[Point]:
    """Yield the points of a valid grid that meet the `where` of their block.

    Without a placement, a point is on the first cluster on which it may run. Raises ConfigError.
    """
    for point in points(study):
        for first in options(study, point)[:1]:
            if meets_condition(study, first):
                yield first


def meets_condition(study: Study, point: Point) -> bool:
    """Return whether a cell of known names meets its block's `where`. Raises ConfigError."""
    text = point.entry.where
    if text is None:
        return True
    key = (*point.where, "where")
    try:
        value = facts_of(study, point).evaluate(text)
        if isinstance(value, bool):
            return value
        message = f"found {value!r}; expected a condition such as params < 1e9"
    except NotKnownError:
        return True  # what is wrong with the cell's settings is reported
    except ExpressionError as error:
        message = str(error)
    raise ConfigError(format_path(point.where), [Problem(key, message)])
