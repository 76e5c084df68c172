"""What accumulates between records: losses and times."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class LossMean:
    """The mean training loss since the last record, on the device, so that adding does not wait."""

    def __init__(self, device: torch.device, total: float = 0.0, steps: int = 0) -> None:
        """`total` and `steps` are those of a checkpoint between two records."""
        self.total = torch.full((), total, dtype=torch.float64, device=device)
        """Sum over the steps, a scalar."""
        self.steps = steps

    def add(self, loss: Tensor) -> None:
        """Add a step's loss, a scalar."""
        self.total += loss
        self.steps += 1

    def mean(self) -> Tensor:
        """Return the mean, a scalar on the device."""
        return self.total / self.steps

    def restart(self) -> None:
        """Begin an interval."""
        self.total.zero_()
        self.steps = 0


class RecordTimer:
    """The time since the last record, in total and by cause."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin an interval."""
        self._spent = {"data": 0.0, "checkpoint": 0.0, "eval": 0.0}
        self._start = time.perf_counter()
        self.steps = 0
        """Steps since the last record."""

    def charge(self, kind: str, since: float) -> None:
        """Charge the time since a reading of the clock to `data`, `checkpoint` or `eval`."""
        self._spent[kind] += time.perf_counter() - since

    @contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """Charge the time of a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.charge(kind, start)

    def read(self) -> dict[str, Any]:
        """Return the times of the interval as fields of a `Record`; begin the next interval."""
        spent = self._spent
        training_s = time.perf_counter() - self._start - spent["checkpoint"] - spent["eval"]
        times = {
            "step_s": training_s / self.steps,
            "interval_steps": self.steps,
            **{f"{kind}_s": seconds for kind, seconds in spent.items()},
        }
        self.restart()
        return times
