"""The problems with the grid of a study, found before anything runs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from study.config import CORPORA, ClusterConfig, GridEntry, Study, brace_in
from study.facts import CellFacts
from study.grid import Cell, cell_at
from study.point_settings import MANAGED, Start, meets_condition, settle_run, start_of
from study.points import CELL_NAME, Point, is_known, points, unknown_names
from trainer.config import ConfigError, RunConfig, suggest
from trainer.problems import KeyPath, Problem, format_path
from trainer.tokens.text_files import HELD_OUT_FILES, TextFiles, find_text_files

MOST_CELLS = 10_000
"""Most cells of a study."""

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
    count = sum(entry.combinations for entry in study.grid)
    if count > MOST_CELLS:
        message = f"found {count:,} cells; expected {MOST_CELLS:,} or fewer"
        return [*problems, Problem(("grid",), message)], []
    counts: Counter[KeyPath] = Counter()
    found, cells = _check_points(study)
    for problem in dict.fromkeys(found):
        counts[problem.path] += 1
        if counts[problem.path] <= MOST_OF_A_KEY:
            problems.append(problem)
    return list(dict.fromkeys(problems)), cells


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


def _check_points(study: Study) -> tuple[list[Problem], list[Cell]]:
    problems: list[Problem] = []
    cells: list[Cell] = []
    seen: dict[tuple[Any, ...], KeyPath] = {}
    texts = _Texts(study)
    excluded: dict[KeyPath, bool] = {}
    for point in points(study):
        try:
            excluded.setdefault(point.where, True)
            if is_known(study, point) and not meets_condition(study, point):
                continue
            excluded[point.where] = False
            found, cell = _check_point(study, point, seen, texts)
            problems += found
            cells += [cell] if cell else []
        except ConfigError as error:
            excluded[point.where] = False
            problems += error.problems
    for where in (where for where, everything in excluded.items() if everything):
        problems.append(Problem((*where, "where"), "excludes every cell of the block"))
    return problems, cells


def _check_point(
    study: Study, point: Point, seen: dict[tuple[Any, ...], KeyPath], texts: "_Texts"
) -> tuple[list[Problem], Cell | None]:
    """Return the problems with a point, or its cell. Raises ConfigError for invalid settings."""
    labels = tuple(point.labels.values())
    if labels in seen:
        name, first = "/".join(map(str, labels)), format_path(seen[labels])
        message = f"duplicate cell {name}, already in {first}; remove it or give it its own variant"
        return [Problem(point.where, message)], None
    seen[labels] = point.where
    if not is_known(study, point):
        return [], None
    reason = why_impossible(point.cluster, study.clusters[point.cluster], point.gpus)
    if reason:
        return [Problem((*point.where, "gpus"), reason)], None
    run, facts = settle_run(study, point, format_path(point.where))
    found = [*run.find_problems(point.gpus), *texts.problems(run), *_wildcards(run)]
    problems = [facts.settings.trace(problem) for problem in found]
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
