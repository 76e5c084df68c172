"""What the Snakefile and its rules ask of the study. Imported once while Snakemake plans."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from study.config import DEFAULT_FILE, Study, load_study
from study.grid import Grid
from study.launch import launch_line, slurm_resources, threads
from trainer.config import ConfigError, load_yaml, merge

CODE = sorted(
    str(path) for pattern in ("*.py", "templates/*") for path in Path("study").glob(pattern)
)
"""The sources that make tables and plots: seconds to redo, so a changed formula refreshes them."""

UNSET = {"mem_mb": 0, "runtime": 0}
"""Snakemake drops a resource that is None, but of these two it insists on a number."""


def load_config(config: Mapping[str, Any], configfiles: Sequence[Any]) -> Study:
    """Return the study of Snakemake's config; the default study where no file was given.

    A mistake ends the program with its description and exit code 1.
    """
    try:
        if configfiles:
            return load_study(config, ", ".join(str(path) for path in configfiles))
        # Not by Snakemake's `configfile:`: its complaint about bad YAML names no file and no line.
        return load_study(merge(load_yaml(DEFAULT_FILE), config), DEFAULT_FILE)
    except ConfigError as error:
        sys.exit(str(error))


def finished_runs(grid: Grid) -> list[str]:
    """Return the files that the tables wait for.

    Of a partial study these are the metrics that exist, and nothing makes them.
    """
    if grid.study.partial:
        metrics = [f"{cell.folder}/metrics.jsonl" for cell in grid.measured]
        return [path for path in metrics if Path(path).exists()]
    return [f"{cell.folder}/completed" for cell in grid.measured]


def text_files(grid: Grid, source: str) -> list[str]:
    """Return the files that a source is tokenised from; of a corpus we make, the one made last."""
    folder = Path(grid.data_root, source)
    if source in grid.study.corpora:
        return [str(folder / f"{source}.val.jsonl")]
    return sorted(str(path) for path in folder.glob("*.jsonl"))


class TrainingRequest:
    """What the rule `train` asks of the machine, each as a function of the rule's wildcards."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def resource(self, name: str) -> Callable[[Any], Any]:
        """Return a resource as a function of the wildcards."""
        return lambda wildcards: self._resources(wildcards).get(name, UNSET.get(name))

    def threads(self, wildcards: Any) -> int:
        """Return the job's threads."""
        cell = self._grid.at(wildcards)
        return threads(cell.place, cell.gpus)

    def launch(self, wildcards: Any) -> str:
        """Return the line that starts the trainer."""
        cell = self._grid.at(wildcards)
        return launch_line(cell.place, cell.gpus)

    def _resources(self, wildcards: Any) -> dict[str, Any]:
        cell = self._grid.at(wildcards)
        return slurm_resources(cell.place, cell.gpus)


def data_resource(grid: Grid, name: str) -> Callable[[Any], Any]:
    """Return a resource of the jobs that prepare data: CPUs of the first Slurm cluster used."""
    slurm = next((cell.place.slurm for cell in grid if cell.place.slurm is not None), None)
    resources: dict[str, Any] = {}
    if slurm is not None:
        resources = {"slurm_account": slurm.account, "slurm_partition": slurm.partition}
        resources |= {"mem_mb": 16384, "runtime": 240, "cpus_per_task": 4}
    return lambda wildcards: resources.get(name, UNSET.get(name))
