"""What is known of a study's runs before they are launched: their time, and what they need."""

import math

from study.estimate.estimate import Estimate, Estimator
from study.estimate.needs import Needs
from study.grid import Cell, Grid
from study.measure.evidence import known_measurements
from trainer.model.optimizers import OPTIMIZERS

MARGIN = 1.1
"""Factor on the upper end of a run's time, as its time limit."""

MARGIN_MIN = 5
"""Minutes more: the node's start, and the last save."""

PROCESS_GIB = 6
"""Memory of a node for each rank: Python, PyTorch with CUDA, and the batches in flight."""

STAGED_COPIES = 2
"""Copies in a node's memory of what a rank saves: on its way to disk, and while a file of it is
written."""


class Forecast:
    """What is known before a launch: of a study's own runs, and of what it names as evidence."""

    def __init__(self, grid: Grid) -> None:
        """Read the measurements; raises ConfigError where their files are malformed."""
        self.grid = grid
        self.estimator = Estimator(known_measurements(grid))

    def estimate(self, cell: Cell) -> Estimate:
        """Return the time of a cell's whole run."""
        return self.estimator.estimate(cell, cell.run.steps)

    def needs(self, cell: Cell) -> Needs:
        """Return what a cell's run needs of a node."""
        high = self.estimate(cell).seconds_high
        minutes = None if high is None else math.ceil(high * MARGIN / 60) + MARGIN_MIN
        return Needs(mem_gib=self._mem_gib(cell), runtime_min=minutes)

    def _mem_gib(self, cell: Cell) -> int:
        """Return the memory of a node, GiB, with a quarter to spare."""
        ranks = min(cell.gpus, cell.cluster_config.gpus_per_node)
        if cell.cluster_config.device == "cpu":
            # The model lives there.
            each = self.estimator.memory_gib(cell).high
        else:
            saved = OPTIMIZERS[cell.run.optim.name].checkpoint_bytes * cell.params
            each = PROCESS_GIB + STAGED_COPIES * saved / 2**30 / ranks
        return math.ceil(1.25 * (ranks * each + 2))
