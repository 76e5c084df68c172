"""Several runs of the trainer in one set of processes, which start only once.

    torchrun --nproc_per_node=2 tests/trainer/several_runs.py runs.json

runs.json holds a list of the trainer's command lines. Each rank writes down what it has read of
each step, samples-<rank>.json in the run's folder. Not a test by itself.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from trainer.config import load_run_config
from trainer.loop import run
from trainer.startup import Startup
from trainer.tokens.data import BatchLoader
from trainer.world import get_world, process_group

READ: list[list[list[tuple[int, int]]]] = []
"""Source and window of the samples of each step and micro-batch."""


def note_samples() -> None:
    """Have what is read written down, where tokens are copied and so whatever order is meant."""
    gather = BatchLoader._gather

    def noted(self: BatchLoader, source: Any, window: Any) -> Any:
        pairs = zip(source.tolist(), window.tolist(), strict=True)
        READ.append([list(zip(*pair, strict=True)) for pair in pairs])
        return gather(self, source, window)

    BatchLoader._gather = noted  # type: ignore[method-assign]


if __name__ == "__main__":
    # One group for all runs: torchrun's store still holds the keys of a group that was left.
    run.process_group = lambda *_: contextlib.nullcontext(lambda: None)
    with process_group(get_world("cpu"), timeout_s=60) as wait_for_others:
        wait_for_others()
        note_samples()
        for arguments in json.loads(Path(sys.argv[1]).read_text()):
            READ.clear()
            config = load_run_config(arguments)
            assert run.run(config, Startup()) == 0
            file = Path(config.dump_dir, f"samples-{get_world('cpu').rank}.json")
            file.write_text(json.dumps(READ))
