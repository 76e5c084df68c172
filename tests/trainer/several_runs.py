"""Several runs of the trainer in one set of processes, which are started only once.

    python -m tests.trainer.several_runs 2 runs.json

The first argument is the number of processes, forked after the imports, which take longer than
these runs. runs.json is a list of command lines of the trainer. Each rank records the samples
that it has read in each step, in samples-<rank>.json in the run's folder. In a run with the name
"slow data" or "slow forward", that part of a step takes the last rank `SLOW_S` longer. Not a test
by itself.
"""

import importlib
import json
import multiprocessing
import os
import socket
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.waiting import PATIENCE_S
from trainer.config import load_run_config
from trainer.loop.run import run
from trainer.model.model import Transformer
from trainer.startup import Startup
from trainer.tokens import data
from trainer.tokens.data import BatchLoader
from trainer.world import get_world, process_group

BEFORE_THE_FORK = ("torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.fsdp")
"""Modules that layouts import when they are first used: seconds in each process."""

SLOW = {"slow data": (BatchLoader, "__next__"), "slow forward": (Transformer, "forward")}
SLOW_S = 0.05

READ: list[list[list[tuple[int, int]]]] = []
"""Source and window of the samples of each step and micro-batch."""


def note_samples() -> None:
    """Record the samples whose tokens are copied, whatever order the loader planned."""
    gather = data.gather

    def noted(windows: Any, source: Any, window: Any) -> Any:
        pairs = zip(source.tolist(), window.tolist(), strict=True)
        READ.append([list(zip(*pair, strict=True)) for pair in pairs])
        return gather(windows, source, window)

    data.gather = noted


def slowed_down(owner: type, method: str) -> AbstractContextManager[Any]:
    """Have a method take `SLOW_S` longer."""
    original = getattr(owner, method)

    def slow(self: Any, *arguments: Any) -> Any:
        time.sleep(SLOW_S)
        return original(self, *arguments)

    return patch.object(owner, method, slow)


def run_all(rank: int, processes: int, port: int, command_lines: list[list[str]]) -> None:
    """Run them as one rank."""
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"}
    os.environ |= {"WORLD_SIZE": f"{processes}", "LOCAL_WORLD_SIZE": f"{processes}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    # One group for all runs: the store still holds the keys of a destroyed group.
    with process_group(get_world("cpu", timeout_s=PATIENCE_S)) as wait_for_others:
        wait_for_others()
        note_samples()
        for arguments in command_lines:
            READ.clear()
            config = load_run_config(arguments)
            is_slow = config.name in SLOW and rank == processes - 1
            with slowed_down(*SLOW[config.name]) if is_slow else nullcontext():
                assert run(config, Startup()) == 0
            file = Path(config.dump_dir, f"samples-{get_world('cpu').rank}.json")
            file.write_text(json.dumps(READ))


def main() -> int:
    processes, command_lines = int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for module in BEFORE_THE_FORK:
        importlib.import_module(module)
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=run_all, args=(rank, processes, port, command_lines))
        for rank in range(processes)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    return max(abs(rank.exitcode or 0) for rank in ranks)


if __name__ == "__main__":
    sys.exit(main())
