"""The whole optimizer step as one CUDA graph, which the CPU replays with one call.

A step with static shapes launches the same kernels on the same memory each time. For small models
the launches take the CPU longer than the kernels take the GPU.
"""

from collections.abc import Callable

import torch
from torch import Tensor

EAGER_STEPS = 3
"""Eager steps before the capture: they load kernels and libraries, which a capture must not."""

Step = Callable[[Tensor], tuple[Tensor, Tensor]]


class StepGraph:
    """A step that runs eagerly `EAGER_STEPS` times, then is captured and replayed."""

    def __init__(self, step: Step) -> None:
        self._step, self._taken = step, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._tokens: Tensor
        self._result: tuple[Tensor, Tensor]

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step; its result is valid until the next one."""
        if self._taken < EAGER_STEPS:
            self._taken += 1
            return self._step(tokens)
        if self._graph is None:
            self._tokens = tokens.clone()
            self._graph = torch.cuda.CUDAGraph()
            # The loader's thread pins memory meanwhile, which other modes forbid in all threads.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._result = self._step(self._tokens)
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._result
