"""Stop requests by signal, on which all ranks stop at the same step."""

import signal
import time

import torch

from trainer.collectives import PendingSum
from trainer.signals import STOP_SIGNALS
from trainer.world import World


class StopSignal:
    """`STOP_SIGNALS` ask the run to save and stop; all ranks must stop at the same step.

    The ranks sum their flags with an asynchronous all-reduce over the CPU group, which overlaps
    with the next step and is read one step later, so the GPU never waits for it. It is repeated
    about every `EVERY_S`, to keep its cost low for short steps: rank 0 converts that to a number of
    steps by its own step time, and the all-reduce tells the other ranks.
    """

    EVERY_S = 0.2
    MOST_STEPS = 8
    """Most steps between two all-reduces: later steps may be slower, or the last ones."""

    def __init__(self, world: World) -> None:
        self._world, self._flag = world, 0
        self._sum = PendingSum()
        self._pause = self._steps = 0  # steps between all-reduces, and since the last one
        self._since = time.perf_counter()
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        self._flag = 1

    def agreed(self) -> bool:
        """Say whether any rank had been asked to stop; all ranks call it once per step."""
        if self._world.size == 1:
            return bool(self._flag)
        self._steps += 1
        stop = False
        total = self._sum.receive()
        if total is not None:
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
            pause = min(self.MOST_STEPS, round(self.EVERY_S / step_s))
        self._sum.start(torch.tensor([self._flag, pause], dtype=torch.int32))
        self._since, self._steps = now, 0

    def close(self) -> None:
        """Wait for a pending all-reduce."""
        self._sum.receive()
