"""Traces of a few steps: where their time went, and on a GPU their memory.

Steps are counted from the first one of the attempt. Each rank writes files of its own:
step-N-rank-R.json.gz for https://ui.perfetto.dev, step-N-rank-R.memory.pickle for
https://pytorch.org/memory_viz, N the first step of the window.
"""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from trainer.config import ProfilingConfig
from trainer.files import make_folder
from trainer.world import World

MEMORY_EVENTS = 100_000
"""Allocations that a history of memory keeps, the newest ones."""


class Profiler:
    """Profiles the window of steps that the settings name; does nothing where they ask for none."""

    def __init__(self, config: ProfilingConfig, folder: Path, world: World, done: int) -> None:
        """Make it for an attempt that goes on after step `done`.

        Raises ConfigError where the folder of the traces cannot be written.
        """
        self._config, self._world = config, world
        self._folder = folder / config.trace_folder
        self._done, self._cuda = done, world.device.type == "cuda"
        if config.run:
            make_folder(self._folder, "profiling.trace_folder")
        self._profile: profile | None = None
        self._name: record_function | None = None

    def begin(self, step: int) -> None:
        """Note that a step begins, and with that the end of the one before."""
        config = self._config
        if not config.run:
            return
        place = step - self._done - 1  # steps of this attempt before this one
        if self._name is not None and self._cuda:
            torch.cuda.synchronize()  # so that the name covers what the step started
        self._end_step()
        if place == config.profile_warmup:
            self._start(step)
        elif place == config.profile_warmup + config.profile_steps:
            self._stop()
        if self._profile is not None:
            self._name = record_function(f"step {step}")
            self._name.__enter__()
        if self._cuda and place == config.mem_warmup:
            torch.cuda.memory._record_memory_history(max_entries=MEMORY_EVENTS)
        elif self._cuda and place == config.mem_warmup + config.mem_steps:
            self._write_memory(step - config.mem_steps)

    def close(self) -> None:
        """Write what there is of a window that the run did not come to the end of."""
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
        temporary = self._file.with_name(f".{self._file.name}")  # its end is what torch goes by
        self._profile.export_chrome_trace(str(temporary))
        temporary.replace(self._file)
        self._profile = None

    def _write_memory(self, step: int) -> None:
        torch.cuda.memory._dump_snapshot(str(self._path(step, "memory.pickle")))
        torch.cuda.memory._record_memory_history(enabled=None)

    def _path(self, step: int, suffix: str) -> Path:
        return self._folder / f"step-{step}-rank-{self._world.rank}.{suffix}"
