"""What a cell may expect on each of its clusters: the time of its run, and the wait before it."""

import shlex
from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from study.estimate.forecast import Forecast
from study.formats import format_number
from study.grid import Cell, Grid
from study.jobs.launch import request_line
from study.jobs.sbatch_answers import ExpectedStart, count_nodes, find_start
from study.jobs.slurm_jobs import QueuedJob, by_age, list_jobs
from study.measure.summaries import is_up_to_date
from study.placements import Prospect

UNREACHABLE = "Slurm cannot be asked from here"
SILENT = "Slurm does not say when"
"""Why a wait is not known."""


class Backlog:
    """The runs of a study that are to start on a cluster, one after another as there is room."""

    def __init__(self, capacity: float) -> None:
        """`capacity`: GPUs of the cluster."""
        self._free = capacity
        self._ends: list[tuple[float, int]] = []
        """End, s from now, and GPUs of each run, by ascending end."""

    def start(self, gpus: int, earliest: float) -> float:
        """Return when there is room for another run, s from now, `earliest` at the earliest."""
        free, start = self._free, earliest
        for end, held in self._ends:
            if free >= gpus:
                break
            free, start = free + held, max(start, end)
        return start

    def add(self, gpus: int, start: float, seconds: float) -> None:
        """Add a run that starts then; later ones start no earlier."""
        ended = bisect_right(self._ends, (start, 2**62))
        self._free += sum(held for _, held in self._ends[:ended]) - gpus
        del self._ends[:ended]
        insort(self._ends, (start + seconds, gpus))


class Prospects:
    """Expectations for the cells of a study, from its measurements and from the queues now."""

    def __init__(self, grid: Grid) -> None:
        """Read the measurements; raises ConfigError if their files are malformed."""
        self._forecast = Forecast(grid)
        self._backlogs: dict[str, Backlog] = {}
        self._nodes = cache(count_nodes)
        self._starts = cache(find_start)
        self._jobs = cache(_jobs_of)

    def of(self, cells: Sequence[Cell]) -> dict[str, Prospect]:
        """Return cluster -> prospect of a cell, from the cell on each of its clusters."""
        return {cell.cluster: self._of(cell) for cell in cells}

    def _of(self, cell: Cell) -> Prospect:
        estimate, limit = self._forecast.estimate(cell), cell.cluster_config.memory_gib
        memory = estimate.memory_gib
        if limit is not None and memory is not None and memory > limit:
            needs = f"does not fit: {format_number(memory)} GiB of {limit:g} a GPU"
            return Prospect(impossible=needs)
        start = self._start(cell)
        if start.refusal:
            return Prospect(impossible=f"Slurm refuses the job: {start.refusal}")
        wait_s = start.wait_s
        if wait_s is None:
            slurm = cell.cluster_config.slurm
            known = slurm is not None and self._nodes(slurm.partition, slurm.clusters) is not None
            return Prospect(seconds=estimate.seconds, note=SILENT if known else UNREACHABLE)
        wait_s = self._backlog(cell).start(self._gpus(cell), wait_s)
        note = "" if estimate.seconds is not None else estimate.method
        return Prospect(seconds=estimate.seconds, wait_s=wait_s, note=note)

    def expect(self, cell: Cell) -> None:
        """Count a cell as one that is to run on its cluster, if it is."""
        seconds = self._forecast.estimate(cell).seconds
        if seconds is None or not cell.measure or is_up_to_date(cell) or self.job_of(cell):
            return
        wait_s = self._start(cell).wait_s
        if wait_s is not None:
            backlog, gpus = self._backlog(cell), self._gpus(cell)
            backlog.add(gpus, backlog.start(gpus, wait_s), seconds)

    def job_of(self, cell: Cell) -> str | None:
        """Return the id of a cell's job in the queue of its cluster; None if there is none.

        If Slurm does not answer, a job that was submitted counts as one in the queue.
        """
        slurm = cell.cluster_config.slurm
        found = (path.stem for path in Path(cell.folder, "slurm_logs").glob("*.log"))
        submitted = sorted(found, key=by_age)
        if slurm is None or not submitted:
            return None
        listed = self._jobs(slurm.clusters)
        if listed is None:
            return submitted[-1]
        queued = (listed.get((slurm.clusters, job_id)) for job_id in submitted)
        return next((job.job_id for job in queued if job and job.is_active), None)

    def _start(self, cell: Cell) -> ExpectedStart:
        """Return when Slurm would start a cell's job; at once on this machine."""
        slurm = cell.cluster_config.slurm
        if slurm is None:
            return ExpectedStart(0.0)
        if self._nodes(slurm.partition, slurm.clusters) is None:
            return ExpectedStart(None)
        flags = request_line(cell.cluster_config, cell.gpus, self._forecast.needs(cell))
        return self._starts(tuple(shlex.split(flags)), slurm.partition, slurm.clusters)

    def _backlog(self, cell: Cell) -> Backlog:
        config = cell.cluster_config
        if cell.cluster not in self._backlogs:
            capacity: float = 1  # on this machine, one run at a time
            if config.slurm is not None:
                nodes = self._nodes(config.slurm.partition, config.slurm.clusters)
                capacity = (nodes or 0) * config.gpus_per_node
            self._backlogs[cell.cluster] = Backlog(capacity)
        return self._backlogs[cell.cluster]

    def _gpus(self, cell: Cell) -> int:
        return cell.gpus if cell.cluster_config.slurm is not None else 1


def _jobs_of(cluster: str | None) -> Mapping[tuple[str | None, str], QueuedJob] | None:
    listed = list_jobs([cluster])
    return None if listed.silent else listed.jobs
