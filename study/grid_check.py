"""The problems with the grid of a study, found before anything runs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from study.abilities import find_refused
from study.config import CORPORA, Study
from study.facts import CellFacts, find_unreadable
from study.grid import Cell, cell_at
from study.grid_config import GridEntry
from study.point_settings import (
    MANAGED,
    SharedRuns,
    Start,
    meets_condition,
    options,
    settle_run,
    start_of,
)
from study.points import CELL_NAME, Point, is_known, points, unknown_names
from study.terms import Placed
from study.text_check import Texts, find_wildcards, what_blocks
from trainer.config import RunConfig
from trainer.layers import Layer
from trainer.problems import ConfigError, KeyPath, Problem, format_path
from trainer.settings import suggest

MOST_OF_A_KEY = 3
"""Most problems that are reported with one key, which every cell may have in another way."""

ONE_FOLDER = "the runs of a cluster share one folder; set it in run or clusters_run"
"""Why data.root_dir is not set by variants and sweeps."""


def check_grid(
    study: Study, known: Mapping[str, Sequence[str]]
) -> tuple[list[Problem], list[Cell]]:
    """Return the problems with the grid of a study whose keys are valid, and the cells without any.

    `known` holds the names in the models and clusters files, valid or not; a file that cannot be
    read is not in it.
    """
    problems = [*_check_folder(study), *_check_names(study, known)]
    known_paths = [problem.path for problem in problems]
    counts: Counter[KeyPath] = Counter()
    found, cells = _check_points(study)
    if cells:
        found += _check_unused(study)
    for problem in dict.fromkeys(found):
        counts[problem.path] += 1
        follows = any(problem.path[: len(path)] == path for path in known_paths)
        if counts[problem.path] <= MOST_OF_A_KEY and not follows:
            problems.append(problem)
    return list(dict.fromkeys(problems)), cells


def _check_folder(study: Study) -> list[Problem]:
    """Return the problem if the folder of the results cannot be made."""
    blocked = what_blocks(Path(study.folder))
    return [Problem(("results_dir",), blocked)] if blocked else []


def _check_names(study: Study, known: Mapping[str, Sequence[str]]) -> list[Problem]:
    """Return the problems with names and keys, whatever the cells."""
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
        problems += unknown_names(("grid", index), entry, names)
        problems += _unsweepable(("grid", index, "sweep"), entry)
    for index, item in enumerate(study.evidence):
        problems += unknown_names(("evidence", index), item, names)
    return problems


def unused_variants(study: Study) -> list[str]:
    """Return the variants that no block of the grid, and no evidence, names."""
    named = {name for entry in study.grid for name in entry.variant}
    named |= {item.variant for item in study.evidence}
    return [name for name in study.variants if name not in named]


def _check_unused(study: Study) -> list[Problem]:
    """Return the problems with the settings of variants without a cell, and of evidence."""
    unused, problems = unused_variants(study), list[Problem]()
    changed = {index: item for index, item in enumerate(study.evidence) if item.run}
    if not unused and not changed:
        return []
    places = {p.model: p for p in points(study) if is_known(study, p)}.values()
    for name in unused:
        own = [replace(point, named_variant=name) for point in places]
        problems += _problems_below(study, ("variants", name), own)
    for index, item in changed.items():
        own = [replace(p, named_variant=item.variant, trainer=item.trainer) for p in places]
        own = [point for point in own if is_known(study, point)]
        key = ("evidence", index, "run")
        problems += _problems_below(study, key, own, Layer(item.run, prefix=key))
    return problems


def _problems_below(
    study: Study, key: KeyPath, places: Sequence[Point], changes: Layer | None = None
) -> list[Problem]:
    """Return the problems with the settings below a key, if no place for them takes them."""
    told = list[list[Problem]]()
    for point in places:
        own = replace(point, choices=(), trunk=None)
        try:
            for found in options(study, own)[:1]:
                settle_run(study, found, format_path(key), changes)
            return []
        except ConfigError as error:
            told.append([found for found in error.problems if found.path[: len(key)] == key])
    return min(told, key=len, default=[])


def _managed(where: KeyPath, settings: Mapping[str, Any]) -> list[Problem]:
    return [
        Problem((*where, key), f"cannot be set here; {reason}")
        for key, reason in MANAGED.items()
        if key in settings
    ]


def _unsweepable(where: KeyPath, entry: GridEntry) -> Iterator[Problem]:
    for key, values in entry.sweep.items():
        nested = _with_dots(key, values[0]) if len(values) == 1 else None
        if nested:
            yield Problem((*where, key), f"found a mapping of lists; expected `{nested}: [...]`")
        reason = ONE_FOLDER if key in ("data", "data.root_dir") else MANAGED.get(key)
        if reason:
            yield Problem((*where, key), f"cannot be swept; {reason}")


def _with_dots(key: str, value: Any) -> str | None:
    """Return the dotted key of a list that is nested in a swept mapping, if there is one."""
    if isinstance(value, list):
        return key
    nested = value.items() if isinstance(value, Mapping) else ()
    found = (_with_dots(f"{key}.{name}", inner) for name, inner in nested)
    return next((dotted for dotted in found if dotted), None)


def _check_points(study: Study) -> tuple[list[Problem], list[Cell]]:
    problems: list[Problem] = []
    cells: list[Cell] = []
    seen: dict[tuple[Any, ...], KeyPath] = {}
    texts, runs = Texts(study), SharedRuns(study)
    excluded: dict[KeyPath, bool] = {}
    for point in points(study):
        try:
            excluded.setdefault(point.where, True)
            if not is_known(study, point):
                problems += _find_duplicate(point, seen)
                excluded[point.where] = False
                continue
            possible, impossible = _on_candidates(study, point)
            if not (possible or impossible):
                continue
            excluded[point.where] = False
            found, cell = _check_point(study, point, possible, seen, texts, runs)
            problems += [*impossible, *found]
            cells += [cell] if cell else []
        except ConfigError as error:
            excluded[point.where] = False
            problems += map(_with_remedy, error.problems)
    for where in (where for where, everything in excluded.items() if everything):
        problems.append(Problem((*where, "where"), "excludes every cell of the block"))
    return problems, cells


def _with_remedy(problem: Problem) -> Problem:
    """Tell how a setting is varied if it was given a list."""
    group, *path = problem.path
    key = path[1:] if group in ("variants", "clusters_run") else path
    varies = group in ("run", "variants", "clusters_run") and key
    if not varies or not problem.message.startswith("found a list; "):
        return problem
    remedy = (
        f"to vary it, write `sweep: {{{format_path(tuple(key))}: [...]}}` in a block of the grid"
    )
    return Problem(problem.path, f"{problem.message}; {remedy}")


def _on_candidates(study: Study, point: Point) -> tuple[list[Point], list[Problem]]:
    """Return a point on each cluster on which its cell may run, or the problem if there is none.

    Neither if the cell does not meet the `where` of its block. Raises ConfigError.
    """
    possible = [found for found in options(study, point) if meets_condition(study, found)]
    if possible or not point.candidates:
        return possible, []
    if point.leader is not point:
        found = f"{point.leader.name} is never run; expected a cell that is trained"
        return [], [Problem((*point.where, "from", "cell"), found)]
    meeting = [n for n in point.candidates if meets_condition(study, point.on(n))]
    reasons = [study.clusters[name].why_impossible(name, point.gpus) or "" for name in meeting]
    message = f"{point.name} can run on none of them: {'; '.join(reasons)}"
    return [], [Problem((*point.where, "cluster"), message)] if meeting else []


def _find_duplicate(point: Point, seen: dict[tuple[Any, ...], KeyPath]) -> list[Problem]:
    """Return the problem if another point has the name of this one, on any of its candidates."""
    _, *others = point.labels.values()
    names = [(cluster, *others) for cluster in point.candidates or [point.cluster]]
    taken = next((labels for labels in names if labels in seen), None)
    if taken is None:
        seen |= dict.fromkeys(names, point.where)
        return []
    name = CELL_NAME.format(**dict(zip(point.labels, taken, strict=True)))
    first = format_path(seen[taken])
    message = f"duplicate cell {name}, already in {first}; remove it or give it its own variant"
    return [Problem(point.where, message)]


def _check_point(
    study: Study,
    point: Point,
    possible: Sequence[Point],
    seen: dict[tuple[Any, ...], KeyPath],
    texts: Texts,
    runs: SharedRuns,
) -> tuple[list[Problem], Cell | None]:
    """Return the problems with a point on all its possible clusters, or its cell on the first.

    Raises ConfigError for invalid settings.
    """
    duplicate = _find_duplicate(point, seen)
    if duplicate:
        return duplicate, None
    problems: list[Problem] = []
    cells: list[Cell] = []
    for found in possible:
        reason = study.clusters[found.cluster].why_impossible(found.cluster, found.gpus)
        if reason:
            problems.append(Problem((*found.where, "gpus"), reason))
            continue
        told, cell = _check_settings(study, found, texts, runs)
        problems += told
        cells += [cell] if cell else []
    return problems, cells[0] if cells and not problems else None


def _check_settings(
    study: Study, point: Point, texts: Texts, runs: SharedRuns
) -> tuple[list[Problem], Cell | None]:
    """Return the problems with the settings of a point, or its cell. Raises ConfigError."""
    run, facts = runs.settle(point, format_path(point.where))
    found = [*run.find_problems(point.gpus), *texts.problems(run), *find_wildcards(run)]
    if (unreadable := find_unreadable(run.data.tokenizer)) is not None:
        found.append(unreadable)
    trainer = study.trainers[point.trainer]
    refused: list[Problem] = []
    if not trainer.is_native:
        placed = Placed(run, point.gpus, study.clusters[point.cluster], trainer)
        refused, of_run = find_refused(point.trainer, placed, point.entry, point.where)
        found += of_run
    problems = [*map(facts.settings.trace, found), *refused]
    problems += _problems_of_start(study, point, run, facts)
    return problems, None if problems else cell_at(study, point, run, facts)


def _problems_of_start(
    study: Study, point: Point, run: RunConfig, facts: CellFacts
) -> list[Problem]:
    """Return why a cell cannot start from the checkpoint that it names."""
    if point.trunk is None:
        return []
    start, trunk = start_of(study, point, facts), point.trunk
    name, key = CELL_NAME.format(**trunk.labels), (*point.where, "from")
    if not trunk.entry.measure or not meets_condition(study, trunk):
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


def _why_not_kept(start: Start) -> str | None:
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
