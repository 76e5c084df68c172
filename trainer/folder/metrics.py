"""What accumulates between records: losses and times."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

UNNOTICED_S = 1e-4
"""A wait for data that a GPU does not notice: it saves marking its end."""


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
    """The time since the last record, in total and by cause.

    The host queues steps on a GPU and runs ahead of it. So a save or an evaluation begins when the
    steps before it are done, and waiting for data counts as long as the GPU has nothing to do.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self.restart()

    def restart(self) -> None:
        """Begin an interval."""
        self._spent = {"data": 0.0, "checkpoint": 0.0, "eval": 0.0}
        self._waits: list[tuple[torch.cuda.Event, torch.cuda.Event, float]] = []
        self._start = time.perf_counter()
        self.steps = 0
        """Steps since the last record."""
        self.paused = False
        """The interval is not in steady state; see `Record.paused`."""

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Charge the time of a block to `data`."""
        before = _mark() if self._on_gpu else None
        start = time.perf_counter()
        yield
        waited_s = time.perf_counter() - start
        if before is None:
            self._spent["data"] += waited_s
        elif waited_s > UNNOTICED_S:
            self._waits.append((before, _mark(), waited_s))

    @contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """Charge the time of a block to `checkpoint` or `eval`."""
        if self._on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[kind] += time.perf_counter() - start

    def read(self) -> dict[str, Any]:
        """Return the times of the interval as fields of a `Record`; begin the next interval.

        Call it when the device has done the interval's steps.
        """
        spent = self.so_far()
        times = {
            "step_s": spent.pop("steps_s") / self.steps,
            "interval_steps": self.steps,
            "paused": self.paused or None,
            **spent,
        }
        self.restart()
        return times

    def so_far(self) -> dict[str, float]:
        """Return the times of the interval as `Attempt.unrecorded` has them."""
        spent = self._spent
        for before, after, waited_s in self._waits:
            # The GPU reaches both marks at once if it was busy all the time.
            spent["data"] += min(waited_s, before.elapsed_time(after) / 1e3)
        self._waits = []
        steps_s = time.perf_counter() - self._start - spent["checkpoint"] - spent["eval"]
        return {"steps_s": steps_s, **{f"{kind}_s": seconds for kind, seconds in spent.items()}}


def _mark() -> torch.cuda.Event:
    """Return an event that notes when the GPU has done what is queued."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
