"""The whole optimizer step as one CUDA graph: replaying it costs the CPU one call.

A step of static shapes launches the same kernels on the same memory each time. With few and small
layers the launches take the CPU longer than the GPU needs for the work.
"""

from collections.abc import Callable

import torch
from torch import Tensor

EAGER_STEPS = 3
"""Steps before the capture: they load kernels and libraries, which a capture must not."""

Step = Callable[[Tensor], tuple[Tensor, Tensor]]


class StepGraph:
    """A step that runs as it is at first, is then captured, and replayed from there on."""

    def __init__(self, step: Step) -> None:
        self._step, self._taken = step, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._tokens: Tensor
        self._result: tuple[Tensor, Tensor]

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step; what it returns holds until the next one."""
        if self._taken < EAGER_STEPS:
            self._taken += 1
            return self._step(tokens)
        if self._graph is None:
            self._tokens = tokens.clone()
            self._graph = torch.cuda.CUDAGraph()
            # The loader's thread pins memory meanwhile, which other modes forbid to all threads.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._result = self._step(self._tokens)
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._result
