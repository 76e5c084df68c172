"""The command: python -m trainer.warm_up config=run.yaml key=value ...

Compiles what the run would compile, on one process and without data, into the folder of compiled
code (`distributed.compile_cache`): runs of the same shape and batch find it there, on any machine
that sees the folder.
"""

import sys
import time
from collections.abc import Sequence

from trainer.config import ConfigError, RunConfig, load_run_config
from trainer.step import compile_ahead
from trainer.trial import open_trial, prepare


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    try:
        config = load_run_config(arguments)
        seconds = warm_up(config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{config.name}: compiled in {seconds:.1f} s")
    return 0


def warm_up(config: RunConfig) -> float:
    """Compile the blocks of a run; return the seconds that it took."""
    world = prepare(config, "warm-up")
    trial = open_trial(config, world, compiled=True)
    start = time.perf_counter()
    compile_ahead(trial)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
