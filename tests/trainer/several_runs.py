"""Several runs of the trainer in one set of processes, which are started only once.

    torchrun --nproc_per_node=2 -m tests.trainer.several_runs runs.json

runs.json is a list of command lines of the trainer. Each rank records the samples that it has read
in each step, in samples-<rank>.json in the run's folder. Not a test by itself.
"""

import json
import sys
from pathlib import Path
from typing import Any

from trainer.config import load_run_config
from trainer.loop.run import run
from trainer.startup import Startup
from trainer.tokens.data import BatchLoader
from trainer.world import get_world, process_group

READ: list[list[list[tuple[int, int]]]] = []
"""Source and window of the samples of each step and micro-batch."""


def note_samples() -> None:
    """Record the samples whose tokens are copied, whatever order the loader planned."""
    gather = BatchLoader._gather

    def noted(self: BatchLoader, source: Any, window: Any) -> Any:
        pairs = zip(source.tolist(), window.tolist(), strict=True)
        READ.append([list(zip(*pair, strict=True)) for pair in pairs])
        return gather(self, source, window)

    BatchLoader._gather = noted  # type: ignore[method-assign]


if __name__ == "__main__":
    # One group for all runs: torchrun's store still holds the keys of a destroyed group.
    with process_group(get_world("cpu"), timeout_s=60) as wait_for_others:
        wait_for_others()
        note_samples()
        for arguments in json.loads(Path(sys.argv[1]).read_text()):
            READ.clear()
            config = load_run_config(arguments)
            assert run(config, Startup()) == 0
            file = Path(config.dump_dir, f"samples-{get_world('cpu').rank}.json")
            file.write_text(json.dumps(READ))
