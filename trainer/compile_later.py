"""Compiling while the run trains on: a process of its own compiles, then the run takes that over.

Loading torch.compile and compiling take seconds on a CPU and up to a minute on a GPU, in which the
run would stand still before its first step. The step of the switch depends on the clock, and with
it, by the rounding of sums, the losses: a run that must repeat to the last bit says true or false.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

from trainer import host
from trainer.config import RunConfig
from trainer.parallel import World
from trainer.yaml_files import dump_yaml

PAYS_S = 300.0
"""Seconds of eager training still to come from which on `auto` compiles: twice what made up for the
time it took on a CPU, see docs/speed.md."""

OF_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID")
"""Variables that would make the compiling process a rank of the run."""


class CompileLater:
    """The process that compiles for the main process of a run, which asks it from time to time."""

    def __init__(self, config: RunConfig, world: World, folder: Path) -> None:
        self._config, self._world, self._log = config, world, folder / "compile.log"
        self._process: subprocess.Popen[str] | None = None
        self._threads = torch.get_num_threads()
        self._over = False

    def consider(self, left_s: float) -> None:
        """Start where there is a core, and the seconds of training still to come are enough."""
        has_room = self._threads > 1 or host.count_cores() > self._world.local_size
        if self._process is None and has_room and left_s >= PAYS_S:
            self.start()

    def start(self) -> None:
        """Begin to compile, on a core that training leaves free where it has several."""
        if self._world.device.type == "cpu" and self._threads > 1:
            # Threads that wait for one whose core is taken make a step four times as long.
            torch.set_num_threads(self._threads - 1)
        # Equal blocks share one compilation: one is enough. Code has the number of threads in it.
        threads = f"distributed.threads={self._threads}"
        arguments = ("config=/dev/stdin", "model={n_layers: 1}", threads)
        environment = {key: value for key, value in os.environ.items() if key not in OF_TORCHRUN}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainer.warm_up", *arguments],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        assert self._process.stdin is not None
        with self._process.stdin as pipe:
            pipe.write(dump_yaml(self._config.model_dump(mode="json")))

    def is_ready(self) -> bool:
        """Say whether compiled code is there; a process that failed is told of, once."""
        if self._process is None or self._process.poll() is None:
            return False
        if not self._over:
            self._over = True
            self._take_threads_back()
            if self._process.returncode != 0:
                print(f"warning: training goes on uncompiled, see {self._log}", flush=True)
        return self._process.returncode == 0

    def _take_threads_back(self) -> None:
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        self._take_threads_back()
