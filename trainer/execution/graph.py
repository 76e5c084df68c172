"""The whole optimizer step as one CUDA graph, which the CPU replays with one call.

A step with static shapes launches the same kernels on the same memory each time. For small models
the launches take the CPU longer than the kernels take the GPU.
"""

from collections.abc import Callable

import torch
from torch import Tensor

EAGER_STEPS = 3
"""Eager steps before the capture: they load kernels and libraries, which a capture must not."""

DDP_STEPS = 11
"""With DDP, which times its first ten steps with events that a capture must not wait for."""


def leave_default_stream() -> None:
    """Give this thread a stream of its own, since the default one cannot be captured.

    Call it before the model is built: DDP accumulates gradients on the stream that it was made on.
    """
    torch.cuda.set_stream(torch.cuda.Stream())


Step = Callable[[Tensor], tuple[Tensor, Tensor]]


class StepGraph:
    """A step that runs eagerly `eager_steps` times, then is captured and replayed."""

    def __init__(self, step: Step, eager_steps: int, release: Callable[[], None]) -> None:
        """`release` frees what the last eager step leaves in memory.

        Freed during the capture, it would stay beside the graph's own memory for the whole run.
        """
        self._step, self._left, self._release = step, eager_steps, release
        self._graph: torch.cuda.CUDAGraph | None = None
        self._tokens: Tensor
        self._result: tuple[Tensor, Tensor]

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step; its result is valid until the next one."""
        if self._left:
            self._left -= 1
            return self._step(tokens)
        if self._graph is None:
            self._release()
            self._tokens = tokens.clone()
            self._graph = torch.cuda.CUDAGraph()
            stream = torch.cuda.current_stream()
            # The loader's thread pins memory meanwhile, which other modes forbid in all threads.
            mode = "thread_local"
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode=mode):
                self._result = self._step(self._tokens)
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._result
