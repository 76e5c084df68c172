"""Profiler traces of a few steps and, on a GPU, their memory history.

Steps are counted from the first one of the attempt. Each rank writes its own files:
step-N-rank-R.json.gz for https://ui.perfetto.dev, step-N-rank-R.memory.pickle for
https://pytorch.org/memory_viz, N the first step of the window.
"""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from trainer.config import ProfilingConfig
from trainer.files import make_folder, replace_durably
from trainer.world import World

MEMORY_EVENTS = 100_000
"""Most recent allocations that a memory history keeps."""


class Profiler:
    """Profiles a window of steps if the settings ask for it."""

    def __init__(self, config: ProfilingConfig, folder: Path, world: World, done: int) -> None:
        """`done` is the last step before this attempt.

        Raises ConfigError if the trace folder is not writable.
        """
        self._config, self._world = config, world
        self._folder = folder / config.trace_folder
        self._done, self._cuda = done, world.device.type == "cuda"
        if config.run:
            make_folder(self._folder, "profiling.trace_folder")
        self._profile: profile | None = None
        self._name: record_function | None = None

    def begin(self, step: int) -> None:
        """Mark the beginning of a step, and the end of the previous one."""
        config = self._config
        if not config.run:
            return
        index = step - self._done - 1  # steps of this attempt before this one
        if self._name is not None and self._cuda:
            torch.cuda.synchronize()  # so that the range covers the step's kernels
        self._end_step()
        if index == config.profile_warmup:
            self._start(step)
        elif index == config.profile_warmup + config.profile_steps:
            self._stop()
        if self._profile is not None:
            self._name = record_function(f"step {step}")
            self._name.__enter__()
        if self._cuda and index == config.mem_warmup:
            torch.cuda.memory._record_memory_history(max_entries=MEMORY_EVENTS)
        elif self._cuda and index == config.mem_warmup + config.mem_steps:
            self._write_memory(step - config.mem_steps)

    def close(self) -> None:
        """Write the trace of a window that the run did not complete."""
        self._end_step()
        self._stop()

    def _start(self, step: int) -> None:
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self._cuda
        self._file = self._path(step, "json.gz")
        self._profile = profile(activities=activities)
        self._profile.start()

    def _end_step(self) -> None:
        if self._name is not None:
            self._name.__exit__(None, None, None)
            self._name = None

    def _stop(self) -> None:
        if self._profile is None:
            return
        self._profile.stop()
        temporary = self._file.with_name(f".{self._file.name}")  # torch picks the format by suffix
        self._profile.export_chrome_trace(str(temporary))
        replace_durably(temporary, self._file)
        self._profile = None

    def _write_memory(self, step: int) -> None:
        torch.cuda.memory._dump_snapshot(str(self._path(step, "memory.pickle")))
        torch.cuda.memory._record_memory_history(enabled=None)

    def _path(self, step: int, suffix: str) -> Path:
        return self._folder / f"step-{step}-rank-{self._world.rank}.{suffix}"
