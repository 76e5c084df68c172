"""The command: python -m trainer.commands.precompile config=run.yaml key=value ...

Compiles what the run would compile, on one process and without data, into the folder of compiled
code (`distributed.compile_cache`): runs of the same shape and batch find it there, on any machine
that sees the folder.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from trainer.commands.tools import run_command, set_up_alone
from trainer.config import RunConfig
from trainer.loop.learner import build_learner
from trainer.loop.step import compile_ahead


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    return run_command(arguments, precompile)


def precompile(config: RunConfig) -> str:
    """Compile the blocks of a run; return a line that says how long it took."""
    world, choices = set_up_alone(config, "precompile")
    learner = build_learner(config, replace(choices, compiled=True), world)
    start = time.perf_counter()
    compile_ahead(learner)
    return f"{config.name}: compiled in {time.perf_counter() - start:.1f} s\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
