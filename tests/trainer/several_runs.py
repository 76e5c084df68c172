"""Several runs of the trainer in one set of processes, which start only once.

    torchrun --nproc_per_node=2 tests/trainer/several_runs.py runs.json

runs.json holds a list of the trainer's command lines. Not a test by itself.
"""

import contextlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from trainer import train
from trainer.config import load_run_config
from trainer.metrics import Startup
from trainer.parallel import get_world, process_group

if __name__ == "__main__":
    # One group for all runs: torchrun's store still holds the keys of a group that was left.
    train.process_group = lambda *_: contextlib.nullcontext(lambda: None)
    with process_group(get_world(), timeout_s=60) as wait_for_others:
        wait_for_others()
        for arguments in json.loads(Path(sys.argv[1]).read_text()):
            assert train.run(load_run_config(arguments), Startup()) == 0
