"""Functions for the Snakefile and its rules. Imported whenever Snakemake plans."""

import gc
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from threadpoolctl import threadpool_limits

from study.config import DEFAULT_FILE
from study.grid import Grid
from study.jobs.evaluation import find_problem
from study.jobs.messages import shorten
from study.load import load_grid
from study.measure.summaries import is_up_to_date
from study.points import RUN_FOLDER
from study.project import PROJECT, of_project, share_packages
from trainer.layers import Layer, Merged, merge
from trainer.problems import ConfigError, combine
from trainer.records import EVALUATION, EXPORT, METRICS
from trainer.tokens.text_files import list_text_files
from trainer.yaml_files import load_document, parse_assignment, parse_yaml

SOURCES = (".py", ".html", ".css", ".js", ".mplstyle")
"""Suffixes of the files that a stage's results depend on."""

NO_NAME = "(?!)"
"""A pattern that matches nothing."""

Manner = Literal["record", "show", "refuse"]
"""What to do about cells without a cluster. record: choose one, and write the choice down; show:
choose only; refuse: an error, as in a job."""


def manner(workflow: Any) -> Manner:
    """Return what an invocation of Snakemake does about cells whose cluster is not chosen yet."""
    if not workflow.is_main_process:
        return "refuse"
    return "show" if workflow.output_settings.dryrun else "record"


def load_workflow(workflow: Any, config: Mapping[str, Any]) -> Grid:
    """Return the grid of the study that a workflow is about, and have its jobs find our packages.

    The workflow is this project's Snakefile, or another one that has it as a module, whose
    `config:` is the study. A mistake ends the program with a message and exit code 1.
    """
    try:
        share_packages()
        module = _find_module(workflow)
        layers = [] if module is None else [_layer_of(module, config)]
    except ConfigError as error:
        sys.exit(str(error))
    files, assignments = workflow.configfiles, workflow.config_settings.config_args
    return load_config(files, [] if layers else assignments, manner(workflow), layers)


def _find_module(workflow: Any) -> str | None:
    """Return the name of the module that Snakemake loads; None for the main Snakefile."""
    modifier = workflow.modifier
    if modifier.is_main_snakefile():
        return None
    module = f"module {modifier.namespace}"
    paths = modifier.path_modifier
    if paths.prefix or paths.modifies_prefixes:
        message = "found a prefix; expected none: the folder is `results_dir` of the study"
        raise ConfigError(module, [message])
    return module


def _layer_of(module: str, config: Mapping[str, Any]) -> Layer:
    """Return the study that a module is configured with.

    Numbers such as 1e18 and 3e-4 are strings to Snakemake, which reads YAML 1.1.
    """
    if not config:
        raise ConfigError(module, ["found no `config:`; expected a study, see config/README.md"])
    return Layer(parse_yaml(yaml.safe_dump(dict(config)), module), source=module)


def load_config(
    configfiles: Sequence[Path],
    assignments: Sequence[str],
    placing: Manner = "show",
    layers: Sequence[Layer] = (),
) -> Grid:
    """Return the grid of the study from Snakemake's --configfile and --config; without files, of
    the default one; of `layers` instead if there are any.

    Snakemake has parsed both already, but as YAML 1.1, allowing duplicate keys and without line
    numbers, so they are read again. `placing`: what to do about cells whose cluster is not chosen
    yet. A mistake ends the program with a message and exit code 1.
    """
    # Snakemake has loaded NumPy, whose BLAS threads wait busily for each other in fits this small.
    threadpool_limits(1, user_api="blas")

    def place(grid: Grid) -> Grid:
        # Imported only here, as it loads numpy.
        from study.jobs import placement

        how = {"record": placement.record, "show": placement.show, "refuse": placement.refuse}
        return how[placing](grid)

    try:
        files = [shorten(path) for path in configfiles] or [of_project(DEFAULT_FILE)]
        given = merge({}, *({key: value} for key, value in map(parse_assignment, assignments)))
        layers = [*(layers or _read_layers(files)), Layer(given, source="command line")]
        grid = load_grid(Merged(layers), str(layers[0].source), place)
    except ConfigError as error:
        sys.exit(str(error))
    # The cells, and the jobs that Snakemake makes of them, live until the end.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    return grid


def code(*wings: str) -> str:
    """Return the newest source of a stage: of the top level of `study` and the wings that it uses.

    As an input of a rule it has its tables or plots recreated after a change, which takes seconds.
    All sources would have the same effect, and fill the screen in a dry run.
    """
    package = PROJECT / "study"
    places = [package.glob("*.py"), *((package / wing).rglob("*.*") for wing in wings)]
    sources = (path for paths in places for path in paths if path.suffix in SOURCES)
    return shorten(max(sources, key=lambda path: (path.stat().st_mtime_ns, str(path))))


def _read_layers(files: Sequence[str]) -> list[Layer]:
    layers, errors = [], []
    for file in files:
        try:
            layers.append(Layer.of(load_document(file)))
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise combine(errors)
    return layers


def finished_runs(grid: Grid) -> list[str]:
    """Return the files that the tables wait for.

    For a partial study, these are the existing metrics, which no rule creates.
    """
    if grid.study.partial:
        metrics = [f"{cell.folder}/{METRICS}" for cell in grid.measured]
        return [path for path in metrics if Path(path).exists()]
    return [cell.completed_file for cell in grid.measured]


def text_files(grid: Grid, name: str) -> list[str]:
    """Return the files that a source is tokenised from; for a corpus of ours, the last one
    written."""
    data, source = grid.sources[name], Path(name).name
    root = Path(data.root_dir)
    made_of = [] if data.tokenizer.path is None else [data.tokenizer.path]
    if source in grid.study.corpora:
        return [str(root / source / f"{source}.val.jsonl"), *made_of]
    files = list_text_files(root, source)
    return [*(str(path) for path in files.on_disk), *made_of]


def exports(grid: Grid) -> Callable[[Any], list[str]]:
    """Return the folders of all exports, as an input function, evaluated only if requested; for a
    partial study, those of the finished runs. Only our own checkpoints can be exported."""

    def folders(wildcards: Any) -> list[str]:
        found = [cell for cell in grid.measured if cell.trainer_config.is_native]
        if grid.study.partial:
            found = [cell for cell in found if is_up_to_date(cell)]
        return [f"{cell.folder}/{EXPORT}" for cell in found]

    return folders


def evaluations(grid: Grid) -> Callable[[Any], list[str]]:
    """Return the folders of all evaluations, as an input function.

    Evaluated only if the target is requested; missing requirements then end the program.
    """

    def folders(wildcards: Any) -> list[str]:
        problem = find_problem(grid)
        if problem is not None:
            sys.exit(str(problem))
        return [str(Path(export).with_name(EVALUATION)) for export in exports(grid)(wildcards)]

    return folders


def run_folders(grid: Grid) -> tuple[str, str]:
    """Return the patterns of the runs' folders that the executor dispatches, and of the others.

    The others are runs on this machine in a study that also has runs on Slurm.
    """
    on_slurm = {cell.cluster for cell in grid if cell.cluster_config.slurm is not None}
    here = {cell.cluster for cell in grid} - on_slurm
    dispatched, others = (on_slurm, here) if on_slurm else (here, on_slurm)

    def pattern(names: set[str]) -> str:
        either = "|".join(sorted(map(re.escape, names))) or NO_NAME
        return RUN_FOLDER.replace("{cluster}", f"{{cluster,{either}}}")

    return pattern(dispatched), pattern(others)
