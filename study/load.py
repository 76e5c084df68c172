"""Load studies from files, with their ladder, clusters and trainers, and validate them.

All problems in all files are reported together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from study.cluster_config import ClusterConfig
from study.config import DEFAULT_FILE, Study
from study.described import describe_trainers
from study.grid import Grid
from study.grid_check import check_grid
from study.grid_config import AnyOf
from study.placements import Placement, UnplaceableError, read_placements
from study.point_settings import options
from study.points import Point, is_known, points
from study.project import of_project
from study.trainers import TrainerConfig
from trainer.config import ModelConfig
from trainer.layers import Layer, Merged
from trainer.problems import ConfigError, Problem, combine
from trainer.settings import Settings, check_kind, problems_of, suggest
from trainer.yaml_files import Document, load_document, shorten

TABLES = {
    "models": "config/models.yaml",
    "clusters": "config/clusters.yaml",
    "trainers": "config/trainers.yaml",
}
"""Key that may be a path -> its default."""

OPTIONAL = ("trainers",)
"""Keys whose default file need not exist."""

ENTRIES: dict[str, type[Settings]] = {
    "models": ModelConfig,
    "clusters": ClusterConfig,
    "trainers": TrainerConfig,
}
"""Key -> class of its entries."""


Place = Callable[[Grid], Grid]
"""Returns a grid in which all cells have a cluster, from one in which some have several."""


def load_study(config: Mapping[str, Any] | Merged, source: str = DEFAULT_FILE) -> Study:
    """Return the study that `load_grid` reads."""
    return load_grid(config, source).study


def load_grid(
    config: Mapping[str, Any] | Merged,
    source: str = DEFAULT_FILE,
    place: Place | None = None,
    *,
    again: bool = False,
) -> Grid:
    """Return the grid of the study in `config`, the content of the file `source` or merged from
    several.

    `models`, `clusters` and `trainers` may be mappings, or paths of files with the mappings.
    `place` chooses a cluster for cells with several of which none is chosen yet; without it, they
    are on the first on which they can run. `again`: choices that were made earlier do not count.
    Raises ConfigError.
    """
    settings = config if isinstance(config, Merged) else Merged([Layer(config, source=source)])
    check_kind(Study, settings.values, source)
    settings, unreadable = _merge_tables(settings)
    problems, study = _validate({**settings.values, **{key: {} for key in unreadable}})
    known: dict[str, Placement] = {}
    if study is not None:
        try:
            study, known = _with_placements(study, again)
        except ConfigError as error:
            unreadable["placements"] = error
        loaded = [key for key in TABLES if key not in unreadable]
        names = {key: list(settings.values.get(key, ())) for key in loaded}
        if "trainers" in names:
            names["trainers"] += [name for name in study.trainers if name not in names["trainers"]]
        told, study = describe_trainers(study, settings)
        found, cells = check_grid(study, names)
        problems += [*_misplaced(study), *told, *found]
    errors = list(unreadable.values())
    if problems:
        errors.insert(0, _traced(problems, settings, source))
    if errors or study is None:
        raise combine(errors)
    grid = Grid(study, cells, known)
    try:
        return grid if place is None or not undecided(grid) else place(grid)
    except UnplaceableError as error:
        raise _traced(error.problems, settings, source) from None


def undecided(grid: Grid) -> list[str]:
    """Return the cells with several clusters of which none is chosen yet."""
    keys = dict.fromkeys(cell.placement for cell in grid)
    return [key for key in keys if key is not None and key not in grid.study.placements]


def _traced(problems: Sequence[Problem], settings: Merged, source: str) -> ConfigError:
    """Return problems with a study as an error that names the files and lines of their keys."""
    traced = dict.fromkeys(settings.trace(problem) for problem in problems)
    files = [*settings.sources, *(problem.source for problem in traced)]
    by_file = sorted(traced, key=lambda problem: files.index(problem.source))
    return ConfigError(source, by_file)


def _with_placements(study: Study, again: bool) -> tuple[Study, dict[str, Placement]]:
    """Return a study with the placements of its cells that were made earlier, and all of these.

    Those that the study states itself take precedence.
    """
    if not any(isinstance(name, AnyOf) for entry in study.grid for name in entry.cluster):
        return study, {}
    known = read_placements(study.folder)
    leaders = {point.leader.name: point.leader for point in points(study) if point.candidates}
    recorded = {
        key: item.cluster
        for key, item in known.items()
        if not again and key in leaders and _is_possible(study, leaders[key], item.cluster)
    }
    return study.model_copy(update={"placements": {**recorded, **study.placements}}), known


def _is_possible(study: Study, point: Point, cluster: str) -> bool:
    """Return whether a cell may run on the cluster that was chosen for it, in the present study."""
    if not is_known(study, point):
        return cluster in point.candidates
    try:
        return cluster in [found.cluster for found in options(study, point)]
    except ConfigError:  # is reported for the cell
        return cluster in point.candidates


def _misplaced(study: Study) -> list[Problem]:
    """Return the problems with the placements that a study states itself."""
    if not study.placements:
        return []
    candidates = {p.leader.name: p.candidates for p in points(study) if p.candidates}
    problems = []
    for key, cluster in study.placements.items():
        if key not in candidates:
            hint = suggest(key, list(candidates))
            problems.append(Problem(("placements", key), f"no cell with several clusters; {hint}"))
        elif cluster not in candidates[key]:
            expected = " or ".join(candidates[key])
            message = f"found '{cluster}'; expected {expected}"
            problems.append(Problem(("placements", key), message))
    return problems


def load_study_file(path: str) -> Study:
    """Return the study in a file. Raises ConfigError."""
    return load_grid_file(path).study


def load_grid_file(path: str, place: Place | None = None, *, again: bool = False) -> Grid:
    """Return the grid of the study in a file, as `load_grid` does. Raises ConfigError."""
    return load_grid(Merged([Layer.of(load_document(path))]), path, place, again=again)


def _merge_tables(settings: Merged) -> tuple[Merged, dict[str, ConfigError]]:
    """Return settings with the files of the `TABLES` keys merged in, and the errors of unreadable
    files."""
    unreadable = {}
    for key, default in TABLES.items():
        path = settings.values.get(key, default)
        is_optional = key in OPTIONAL and key not in settings.values
        if isinstance(path, str) and not (is_optional and not Path(of_project(path)).exists()):
            try:
                document = load_document(of_project(path))
                _check_entries(document, key)
                settings = settings.over(Layer.of(document, at=(key,)))
            except ConfigError as error:
                unreadable[key] = _named_by(settings, key, error)
    return settings, unreadable


def _check_entries(document: Document, key: str) -> None:
    """Raise ConfigError if most entries of a file have none of the keys that such entries have."""
    known = {*ENTRIES[key].model_fields, *ENTRIES[key].other_names}
    entries = document.values.values()
    fits = [isinstance(entry, Mapping) and not known.isdisjoint(entry) for entry in entries]
    if 2 * sum(fits) < len(fits):
        found = shorten(", ".join(document.values))
        keys = ", ".join(list(ENTRIES[key].model_fields)[:3])
        expected = f"names of {key}, each with keys such as {keys}"
        message = f"not a file of {key}: found {found}; expected {expected}"
        raise ConfigError(document.source, [message])


def _named_by(settings: Merged, key: str, error: ConfigError) -> ConfigError:
    """Return the error about a file that a key names; one about the whole file says where the key
    is."""
    if len(error.problems) > 1 or error.problems[0].path or key not in settings.values:
        return error
    named = settings.trace(Problem((key,), ""))
    if named.source is None:
        return error
    where = named.source if named.line is None else f"{named.source}, line {named.line}"
    message = f"{error.problems[0].message} (named by `{key}` in {where})"
    return ConfigError(error.source, [replace(error.problems[0], message=message)])


def _validate(values: dict[str, Any]) -> tuple[list[Problem], Study | None]:
    """Return the problems with single keys, and the study without the entries that have problems.

    With the rest of the study, the problems of the grid can be reported together with these.
    """
    try:
        return [], Study.model_validate(values)
    except ValidationError as error:
        problems = problems_of(Study, values, error)
    paths = [problem.path for problem in problems]
    if any(path[0] == "grid" for path in paths):
        return problems, None  # dropping an entry would shift the indices of the others
    rest = {key: value for key, value in values.items() if (key,) not in paths}
    for key, name in {(str(path[0]), path[1]) for path in paths if len(path) > 1}:
        if not isinstance(rest[key], Mapping):
            return problems, None
        rest[key] = {other: item for other, item in rest[key].items() if other != name}
    try:
        return problems, Study.model_validate(rest)
    except ValidationError:
        return problems, None
