"""Requests to stop: SIGTERM and SIGUSR1, on which all ranks leave at the same step."""

import signal
import time

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.world import World


class StopSignal:
    """SIGTERM and SIGUSR1 ask the run to save and leave; all ranks must leave at the same step.

    Every now and then all ranks contribute their flag to a sum over the CPU group, which travels
    while the next step computes and is read one step later, so the GPU never waits for it. The next
    sum is due `EVERY_S` later, in steps as long as those of rank 0 were, so that short steps do not
    pay for it; all ranks learn from the sum in how many steps that is.
    """

    EVERY_S = 0.2
    MOST_STEPS = 8
    """Steps from one sum to the next at most: those to come may take longer, or be the last."""

    def __init__(self, world: World) -> None:
        self._world, self._flag = world, 0
        self._pending: tuple[dist.Work, Tensor] | None = None
        self._pause = self._steps = 0  # from one sum to the next, and since the last one
        self._since = time.perf_counter()
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        self._flag = 1

    def agreed(self) -> bool:
        """Say whether any rank had been asked to stop; call it once in every step."""
        if self._world.size == 1:
            return bool(self._flag)
        self._steps += 1
        stop = False
        if self._pending is not None:
            work, total = self._pending
            self._pending = None
            work.wait()
            flags, self._pause = total.tolist()
            stop = flags > 0
        if self._steps >= self._pause:
            self._contribute()
        return stop

    def _contribute(self) -> None:
        now = time.perf_counter()
        pause = 0
        if self._world.is_main:
            step_s = (now - self._since) / self._steps
            pause = min(self.MOST_STEPS, max(1, round(self.EVERY_S / step_s)))
        total = torch.tensor([self._flag, pause], dtype=torch.int32)
        work = dist.all_reduce(total, op=dist.ReduceOp.SUM, async_op=True)
        assert work is not None
        self._pending = (work, total)
        self._since, self._steps = now, 0

    def close(self) -> None:
        """Wait for the sum that is under way."""
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None
