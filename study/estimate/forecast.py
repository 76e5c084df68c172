"""Estimates of a study's runs before they are launched: their time, memory and time limit."""

import math

from study.estimate.estimate import Estimate, Estimator
from study.estimate.needs import Needs
from study.grid import Cell, Configuration, Grid
from study.measure.evidence import earlier_measurements, known_measurements
from trainer.model.optimizers import optimizer_costs

MARGIN = 1.1
"""Time limit over the upper end of a run's time."""

MARGIN_MIN = 4
"""Additional minutes for the node's start and the last save, beside those after the warning."""

PROCESS_GIB = 6
"""Node memory for each rank: Python, PyTorch with CUDA, and the batches in flight."""

STAGED_COPIES = 2
"""Copies of a rank's checkpoint in node memory: the staged one, and the file being written."""


class Forecast:
    """Estimates before a launch, from a study's own runs, also those from before an edit, and its
    evidence."""

    def __init__(self, grid: Grid) -> None:
        """Read the measurements; raises ConfigError if their files are malformed."""
        self.grid = grid
        self.estimator = Estimator([*known_measurements(grid), *earlier_measurements(grid)])
        self._estimates: dict[tuple[Configuration, int], Estimate] = {}

    def estimate(self, cell: Cell) -> Estimate:
        """Return the time of a cell's whole run: of its own steps, if it starts from another's.

        The seeds of a configuration share it.
        """
        steps = cell.run.steps - cell.start_step
        key = cell.configuration, steps
        if key not in self._estimates:
            self._estimates[key] = self.estimator.estimate(cell, steps)
        return self._estimates[key]

    def needs(self, cell: Cell) -> Needs:
        """Return the memory and the time limit that a cell's run needs."""
        high, slurm = self.estimate(cell).seconds_high, cell.cluster_config.slurm
        warn_s = slurm.warn_s if slurm else 0
        minutes = None if high is None else math.ceil((high * MARGIN + warn_s) / 60) + MARGIN_MIN
        return Needs(mem_gib=self._mem_gib(cell), runtime_min=minutes)

    def _mem_gib(self, cell: Cell) -> int:
        """Return the memory needed on a node, GiB, with a margin of a quarter."""
        ranks = cell.cluster_config.gpus_on_node(cell.gpus)
        if cell.cluster_config.device == "cpu":
            # The model is in node memory.
            each = self.estimator.memory_gib(cell).high
        else:
            run = cell.run
            costs = optimizer_costs(run.optim.name, run.model, run.data.tokenizer.vocab_size)
            saved = costs.checkpoint_bytes * cell.params
            each = PROCESS_GIB + STAGED_COPIES * saved / 2**30 / ranks
        return math.ceil(1.25 * (ranks * each + 2))
