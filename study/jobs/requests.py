"""What rules tell Snakemake about their jobs: resources, threads, inputs and the command.

Each is a value if it is the same for all jobs of a rule, otherwise a function of the wildcards.
"""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from snakemake.io import ancient

from study.estimate.needs import NOT_KNOWN, Needs
from study.grid import Cell, Grid
from study.jobs.launch import (
    cell_line,
    data_request,
    evaluation_line,
    one_gpu_line,
    slurm_resources,
    threads,
)
from study.jobs.precompile import PRECOMPILE_FOLDER, precompile_folder, precompile_run
from study.jobs.text_changes import TextChanges
from study.jobs.verdict import Shortage, find_shortage
from study.measure.summaries import is_up_to_date
from study.points import COMPLETED
from trainer.problems import ConfigError
from trainer.records import CHECKPOINTS

RESOURCES = (
    *("slurm_account", "slurm_partition", "mem_mb", "runtime", "cpus_per_task", "qos"),
    *("constraint", "gres", "nodes", "tasks", "clusters", "slurm_extra"),
)
"""Resources that a job may request from Slurm, as Snakemake and its plugin name them."""

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

UNSET = {"mem_mb": 0, "runtime": 0}
"""Values of resources that may not be None; Snakemake drops any other that is None. Under Slurm,
these two depend on the cell and the attempt, and the others only on the cluster and GPU count."""


def signed(function: FunctionT) -> FunctionT:
    """Keep a function's signature, which Snakemake asks for several times for each job.

    Without, `inspect` computes it each time, which takes longer than most of the functions.
    """
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


def not_compared(function: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a parameter of a job that Snakemake does not compare with that of the last job, as it
    may depend on `output`."""

    @signed
    def value(wildcards: Any, output: Any) -> Any:
        return function(wildcards)

    return value


def _first(file: str, cell: Cell) -> str:
    """Return a file that a cell's training waits for; making it again does not start that again.

    Not so if the run is not up to date: Snakemake would overlook it, beside a job for the file.
    """
    aged: str = ancient(file) if is_up_to_date(cell) else file
    return aged


class CellRequest:
    """Resources and settings of a rule about cells, as functions of its wildcards and the attempt.

    By default a cell's job has all its GPUs.
    """

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
        of the wildcards; None is not requested. Without Slurm, there are none. What no job requests
        is missing.

        Snakemake takes a tenth of a millisecond for each function and job.
        """
        kinds = {(cell.cluster, self._gpus(cell)): cell.cluster_config for cell in self._grid}
        asked = [slurm_resources(config, gpus) for (_, gpus), config in kinds.items()]
        if not any(asked):
            return {}
        found: dict[str, Any] = {}
        for name in RESOURCES:
            values = {request.get(name) for request in asked}
            if values == {None} and name not in UNSET:
                continue  # --default-resources apply
            one = len(values) == 1 and name not in UNSET
            found[name] = values.pop() if one else self._resource(name)
        return found

    @signed
    def settings(self, wildcards: Any) -> str:
        """Return the settings that the job reads, as JSON; study/jobs/dispatch.py writes them.

        Without those at their defaults: one that a later version adds starts no search for settings
        again.
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
        last = self._last  # another thread may ask for another cell meanwhile
        if last is None or last[:2] != (cell.name, shortage):
            needs = self._needs(cell)
            request = slurm_resources(cell.cluster_config, self._gpus(cell), shortage, needs)
            last = self._last = cell.name, shortage, request
        return last[2]

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
            try:
                self._forecast = Forecast(self._grid)
            except ConfigError as error:
                sys.exit(str(error))  # of an Exception, Snakemake prints a traceback
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


class TrainingRequest(CellRequest):
    """Resources, inputs and command of the rule `train`."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._changes = TextChanges(grid)

    @property
    def data(self) -> list[str] | Callable[[Any], list[str]]:
        """The files that list the shards of the runs' sources; a function if they vary."""
        sources = {tuple(self._grid.source_names(cell)) for cell in self._grid}
        if len(sources) > 1 or any(map(self._changes.is_older, self._grid.measured)):
            return self._data_of
        return self._changes.lists(self._grid[0])

    @signed
    def _data_of(self, wildcards: Any) -> list[str]:
        """Return a cell's files; those that list what its complete run was trained on start it no
        more, whatever their times: in a copy, these may have any order."""
        cell = self._cell(wildcards)
        files = self._changes.lists(cell)
        if not self._changes.is_older(cell):
            return files
        same = self._changes.unchanged(cell)
        return [ancient(file) if file in same else file for file in files]

    @property
    def trunk(self) -> list[str] | Callable[[Any], list[str]]:
        """The files that runs wait for which start from another's checkpoint; a function if there
        are any."""
        return self._trunk if any(cell.trunk for cell in self._grid) else []

    @signed
    def _trunk(self, wildcards: Any) -> list[str]:
        cell = self._cell(wildcards)
        return [] if cell.trunk is None else [_first(f"{cell.trunk}/{COMPLETED}", cell)]

    @signed
    def launch(self, wildcards: Any) -> str:
        """Return the line that starts the trainer."""
        return cell_line(self._cell(wildcards))


class OneGpuRequest(CellRequest):
    """Resources of a rule whose jobs need one GPU of the run's cluster."""

    def _gpus(self, cell: Cell) -> int:
        return 1

    def _shortage(self, cell: Cell, attempt: int) -> Shortage:
        # What these jobs ran out of is not known: a retry requests more of both.
        return Shortage(time=attempt - 1, memory=attempt - 1)


class ExportRequest(CellRequest):
    """Inputs of the rule `export_run`."""

    @signed
    def run(self, wildcards: Any) -> str:
        """Return the file that says that a run is complete.

        If the run has no checkpoint any more, the file's time starts no export, before which
        Snakemake would delete the one that is there: in a copy, times may have any order.
        """
        cell = self._cell(wildcards)
        settings, file = cell.run.checkpoint, cell.completed_file
        own = Path(cell.folder, CHECKPOINTS)
        folder = Path(settings.path) if settings and settings.path else own
        return file if any(folder.glob("[0-9]*")) else _first(file, cell)


class EvaluationRequest(OneGpuRequest):
    """Resources and command of the rule `evaluate_run`."""

    @signed
    def launch(self, wildcards: Any) -> str:
        """Return the line that starts the evaluation."""
        return evaluation_line(self._cell(wildcards).cluster_config, self._grid.study.evaluate)

    def starts_with_bos(self, wildcards: Any) -> bool:
        """Say whether texts start with BOS, as those that the model was trained on."""
        return self._cell(wildcards).run.data.add_bos


class AutotuneRequest(OneGpuRequest):
    """Resources and command of the rule `autotune_run`."""

    @signed
    def files(self, wildcards: Any) -> list[str]:
        """Return the results of the search: for each measured cell of a trainer of ours."""
        cells = [cell for cell in self._grid.measured if cell.trainer_config.is_native]
        return [f"{cell.folder}/autotune.yaml" for cell in cells]

    @signed
    def launch(self, wildcards: Any) -> str:
        """Return the line that starts the search, without its config."""
        cluster = self._cell(wildcards).cluster_config
        return one_gpu_line(cluster, "python -m trainer.commands.autotune")


class PrecompileRequest(OneGpuRequest):
    """Resources and command of the rule `precompile`."""

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
        cell = self._grid.at(wildcards)
        folder = precompile_folder(cell)
        return (
            [] if folder is None else [_first(f"{self._grid.study.folder}/{folder}/compiled", cell)]
        )

    @signed
    def settings(self, wildcards: Any) -> str:
        """Return the settings of the precompile job, as JSON."""
        return precompile_run(self._cell(wildcards)).model_dump_json(exclude_defaults=True)

    @signed
    def launch(self, wildcards: Any) -> str:
        """Return the line that starts the compilation, without its config."""
        cluster = self._cell(wildcards).cluster_config
        return one_gpu_line(cluster, "python -m trainer.commands.precompile")


def data_resources(grid: Grid) -> dict[str, Callable[[Any], Any]]:
    """Return the resources of jobs without a GPU, on the first Slurm cluster of the grid."""
    cell = data_cell(grid)
    asked = {} if cell is None else data_request(cell.cluster_config)

    def resource(name: str) -> Callable[[Any], Any]:
        return lambda wildcards: asked.get(name, UNSET.get(name))

    return {name: resource(name) for name in (*asked, *UNSET)}


def data_is_local(grid: Grid) -> bool:
    """Return whether jobs without a GPU run where Snakemake runs."""
    cell = data_cell(grid)
    slurm = None if cell is None else cell.cluster_config.slurm
    return slurm is None or slurm.data.local


def data_cell(grid: Grid) -> Cell | None:
    """Return the cell whose cluster decides about the jobs without a GPU."""
    return next((cell for cell in grid if cell.cluster_config.slurm), None)
