"""Functions for the Snakefile and its rules. Imported whenever Snakemake plans."""

import gc
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from threadpoolctl import threadpool_limits

from study.config import DEFAULT_FILE, ClusterConfig
from study.estimate.needs import NOT_KNOWN, Needs
from study.grid import Cell, Grid
from study.jobs.evaluation import find_problem
from study.jobs.launch import (
    autotune_line,
    cell_line,
    data_request,
    evaluation_line,
    precompile_line,
    slurm_resources,
    threads,
)
from study.jobs.messages import shorten
from study.jobs.precompile import PRECOMPILE_FOLDER, precompile_folder, precompile_run
from study.jobs.verdict import Shortage, find_shortage
from study.load import load_grid
from study.measure.summaries import is_up_to_date
from study.points import RUN_FOLDER
from study.project import PROJECT, of_project, share_packages
from trainer.files import write_atomically
from trainer.layers import Layer, Merged, merge
from trainer.problems import ConfigError, combine
from trainer.records import METRICS, SUMMARY
from trainer.tokens.text_files import list_text_files
from trainer.yaml_files import load_document, parse_assignment, parse_yaml

RESOURCES = (
    *("slurm_account", "slurm_partition", "mem_mb", "runtime", "cpus_per_task", "qos"),
    *("constraint", "gres", "nodes", "tasks", "clusters", "slurm_extra"),
)
"""Resources that a job may request from Slurm, as Snakemake and its plugin name them."""

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

SOURCES = (".py", ".html", ".css", ".js", ".mplstyle")
"""Suffixes of the files that a stage's results depend on."""

NO_NAME = "(?!)"
"""A pattern that matches nothing."""

Manner = Literal["record", "show", "read"]
"""What to do about cells without a cluster. record: choose one, and write the choice down; show:
choose only; read: refuse them, as a job does."""

UNSET = {"mem_mb": 0, "runtime": 0}
"""Values of resources that may not be None; Snakemake drops any other that is None. Under Slurm,
these two depend on the cell and the attempt, and the others only on the cluster and GPU count."""


def manner(workflow: Any) -> Manner:
    """Return what an invocation of Snakemake does about cells whose cluster is not chosen yet."""
    if not workflow.is_main_process:
        return "read"
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

        how = {"record": placement.record, "show": placement.show, "read": placement.refuse}
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


def code(*wings: str) -> list[str]:
    """Return the sources of a stage: the top level of `study`, and the wings that it uses.

    As inputs of a rule they have its tables or plots recreated after a change, which takes seconds.
    """
    package = PROJECT / "study"
    found = [package.glob("*.py"), *((package / wing).rglob("*.*") for wing in wings)]
    return sorted(shorten(path) for paths in found for path in paths if path.suffix in SOURCES)


def mirror_disk(grid: Grid) -> None:
    """Update the files that Snakemake looks at according to the runs' own files.

    A cell is up to date if its run.json says so, whatever Snakemake's metadata says, also in a new
    clone with old results. `completed` is created or removed accordingly, and an outdated
    study.yaml is rewritten, so that the tables are recreated.
    """
    for cell in grid.measured:
        folder = Path(cell.folder)
        if not folder.exists():
            continue
        flag = folder / "completed"
        if not is_up_to_date(cell):
            flag.unlink(missing_ok=True)
        elif not flag.exists():
            flag.touch()
            written = (folder / SUMMARY).stat().st_mtime
            os.utime(flag, (written, written))  # keep tables that are newer than the run
    study = Path(grid.study.folder, "study.yaml")
    if study.exists() and study.read_text(encoding="utf-8") != grid.study.to_yaml():
        write_atomically(study, grid.study.to_yaml())


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
    return [f"{cell.folder}/completed" for cell in grid.measured]


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


def signed(function: FunctionT) -> FunctionT:
    """Keep a function's signature, which Snakemake asks for several times for each job.

    Without, `inspect` computes it each time, which takes longer than most of the functions.
    """
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


class TrainingRequest:
    """Resources and command of the rule `train`, as functions of its wildcards and the attempt."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._forecast: Any = None
        self._last: tuple[str, Shortage, dict[str, Any]] | None = None

    def _cell(self, wildcards: Any) -> Cell:
        return self._grid.at(wildcards)

    def _gpus(self, cell: Cell) -> int:
        return cell.gpus

    def resources(self) -> dict[str, Any]:
        """Return each resource for Snakemake: its value, or if it varies between jobs, a function
        of the wildcards; None is not requested. Without Slurm, there are none.

        Snakemake takes a tenth of a millisecond for each function and job.
        """
        kinds = {(cell.cluster, self._gpus(cell)): cell.cluster_config for cell in self._grid}
        asked = [slurm_resources(config, gpus) for (_, gpus), config in kinds.items()]
        if not any(asked):
            return {}
        found: dict[str, Any] = {}
        for name in RESOURCES:
            values = {request.get(name) for request in asked}
            one = len(values) == 1 and name not in UNSET
            found[name] = values.pop() if one else self._resource(name)
        return found

    @property
    def data(self) -> list[str] | Callable[[Any], list[str]]:
        """The files that list the shards of the runs' sources; a function if the sources vary."""
        sources = {tuple(self._grid.source_names(cell)) for cell in self._grid}
        return self._data(self._grid[0]) if len(sources) == 1 else self._data_of

    @signed
    def _data_of(self, wildcards: Any) -> list[str]:
        return self._data(self._cell(wildcards))

    def _data(self, cell: Cell) -> list[str]:
        names = self._grid.source_names(cell)
        return [f"{self._grid.study.folder}/data/{name}.json" for name in names]

    @property
    def trunk(self) -> list[str] | Callable[[Any], list[str]]:
        """The files that runs wait for which start from another's checkpoint; a function if there
        are any."""
        return self._trunk if any(cell.trunk for cell in self._grid) else []

    @signed
    def _trunk(self, wildcards: Any) -> list[str]:
        folder = self._cell(wildcards).trunk
        return [] if folder is None else [f"{folder}/completed"]

    @signed
    def settings(self, wildcards: Any) -> str:
        """Return the settings that the job reads, as JSON; study/jobs/dispatch.py writes them.

        Without those at their defaults: one that a later version adds starts no job again.
        """
        return self._cell(wildcards).run.model_dump_json(exclude_defaults=True)

    def _resource(self, name: str) -> Callable[[Any, int], Any]:

        @signed
        def value(wildcards: Any, attempt: int) -> Any:
            cell = self._cell(wildcards)
            return self._request(cell, self._shortage(cell, attempt)).get(name, UNSET.get(name))

        return value

    def _request(self, cell: Cell, shortage: Shortage) -> dict[str, Any]:
        """Return a cell's request; kept, as Snakemake asks for one resource at a time."""
        if self._last is None or self._last[:2] != (cell.name, shortage):
            needs = self._needs(cell)
            request = slurm_resources(cell.cluster_config, self._gpus(cell), shortage, needs)
            self._last = cell.name, shortage, request
        return self._last[2]

    def _shortage(self, cell: Cell, attempt: int) -> Shortage:
        return find_shortage(cell.name)

    def _needs(self, cell: Cell) -> Needs:
        """Return the predicted needs of a cell, if a setting of its cluster is `auto`."""
        slurm = cell.cluster_config.slurm
        if slurm is None or "auto" not in (slurm.runtime_min, slurm.mem_gib):
            return NOT_KNOWN
        # Imported only here, as it loads numpy.
        from study.estimate.forecast import Forecast

        if self._forecast is None:
            self._forecast = Forecast(self._grid)
        needs: Needs = self._forecast.needs(cell)
        return needs

    @property
    def threads(self) -> int | Callable[[Any], int]:
        """The jobs' threads; a function of the wildcards if they vary."""
        values = {threads(cell.cluster_config, self._gpus(cell)) for cell in self._grid}
        return values.pop() if len(values) == 1 else self._threads

    @signed
    def _threads(self, wildcards: Any) -> int:
        cell = self._cell(wildcards)
        return threads(cell.cluster_config, self._gpus(cell))

    @signed
    def launch(self, wildcards: Any) -> str:
        """Return the line that starts the trainer."""
        return cell_line(self._cell(wildcards))


class EvaluationRequest(TrainingRequest):
    """Resources and command of the rule `evaluate_run`, on one GPU of the run's cluster."""

    def _gpus(self, cell: Cell) -> int:
        return 1

    def _shortage(self, cell: Cell, attempt: int) -> Shortage:
        # What these jobs ran out of is not known: a retry requests more of both.
        return Shortage(time=attempt - 1, memory=attempt - 1)

    @signed
    def launch(self, wildcards: Any) -> str:
        """Return the line that starts the evaluation."""
        return evaluation_line(self._cell(wildcards).cluster_config, self._grid.study.evaluate)

    def starts_with_bos(self, wildcards: Any) -> bool:
        """Say whether texts start with BOS, as those that the model was trained on."""
        return self._cell(wildcards).run.data.add_bos


class AutotuneRequest(EvaluationRequest):
    """Resources and command of the rule `autotune_run`, on one GPU of the run's cluster."""

    @signed
    def files(self, wildcards: Any) -> list[str]:
        """Return the results of the search: for each measured cell of a trainer of ours."""
        cells = [cell for cell in self._grid.measured if cell.trainer_config.is_native]
        return [f"{cell.folder}/autotune.yaml" for cell in cells]

    @signed
    def launch(self, wildcards: Any) -> str:
        """Return the line that starts the search."""
        return autotune_line(self._cell(wildcards).cluster_config)


class PrecompileRequest(EvaluationRequest):
    """Resources and command of the rule `precompile`, on one GPU of the cluster."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        # Any of the cells that share a folder would do; use the first, as people expect.
        self._cells = {precompile_folder(cell): cell for cell in reversed(grid.measured)}

    def _cell(self, wildcards: Any) -> Cell:
        return self._cells[
            PRECOMPILE_FOLDER.format(cluster=wildcards.cluster, shape=wildcards.shape)
        ]

    @property
    def before(self) -> list[str] | Callable[[Any], list[str]]:
        """The files that a cell's training waits for; a function if there are any."""
        return self._before if any(folder is not None for folder in self._cells) else []

    @signed
    def _before(self, wildcards: Any) -> list[str]:
        folder = precompile_folder(self._grid.at(wildcards))
        return [] if folder is None else [f"{self._grid.study.folder}/{folder}/compiled"]

    @signed
    def settings(self, wildcards: Any) -> str:
        """Return the settings of the precompile job, as JSON."""
        return precompile_run(self._cell(wildcards)).model_dump_json(exclude_defaults=True)

    @signed
    def launch(self, wildcards: Any) -> str:
        """Return the line that starts the compilation."""
        return precompile_line(self._cell(wildcards).cluster_config)


def exports(grid: Grid) -> Callable[[Any], list[str]]:
    """Return the folders of all exports, as an input function, evaluated only if requested; for a
    partial study, those of the finished runs. Only our own checkpoints can be exported."""

    def folders(wildcards: Any) -> list[str]:
        found = [cell.folder for cell in grid.measured if cell.trainer_config.is_native]
        if grid.study.partial:
            found = [folder for folder in found if Path(folder, "completed").exists()]
        return [f"{folder}/export" for folder in found]

    return folders


def evaluations(grid: Grid) -> Callable[[Any], list[str]]:
    """Return the folders of all evaluations, as an input function.

    Evaluated only if the target is requested; missing requirements then end the program.
    """

    def folders(wildcards: Any) -> list[str]:
        problem = find_problem(grid)
        if problem is not None:
            sys.exit(str(problem))
        return [str(Path(export).with_name("evaluation")) for export in exports(grid)(wildcards)]

    return folders


def data_resources(grid: Grid) -> dict[str, Callable[[Any], Any]]:
    """Return the resources of jobs without a GPU, on the first Slurm cluster of the grid."""
    cluster = _data_cluster(grid)
    asked = {} if cluster is None else data_request(cluster)

    def resource(name: str) -> Callable[[Any], Any]:
        return lambda wildcards: asked.get(name, UNSET.get(name))

    return {name: resource(name) for name in (*asked, *UNSET)}


def data_is_local(grid: Grid) -> bool:
    """Return whether jobs without a GPU run where Snakemake runs."""
    cluster = _data_cluster(grid)
    return cluster is None or cluster.slurm is None or cluster.slurm.data.local


def _data_cluster(grid: Grid) -> ClusterConfig | None:
    return next((cell.cluster_config for cell in grid if cell.cluster_config.slurm), None)


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
