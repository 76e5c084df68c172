"""The command: python -m trainer.commands.precompile config=run.yaml key=value ...

Compiles a run's blocks, in one process and without data, into `distributed.compile_cache`. Runs of
the same shape and batch then find the compiled code there, on any machine with access to the
folder.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from trainer.commands.tools import run_command, set_up_alone
from trainer.config import RunConfig
from trainer.loop.first_steps import compile_ahead, copies_take_gradients
from trainer.loop.learner import build_learner
from trainer.model.weight_copies import keep_copies


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    purpose = "Compile a run's blocks into distributed.compile_cache, in one process, without data."
    return run_command("precompile", purpose, arguments, precompile)


def precompile(config: RunConfig) -> str:
    """Compile the blocks of a run; return a message with the time it took."""
    world, choices = set_up_alone(config, "precompile")
    learner = build_learner(config, replace(choices, compiled=True), world)
    start = time.perf_counter()
    if choices.weight_copies:  # for runs on one process, and for DDP
        for take_gradients in {copies_take_gradients(config, ddp) for ddp in (False, True)}:
            keep_copies(learner.model.layers, take_gradients)
            compile_ahead(learner)
    else:
        compile_ahead(learner)
    return f"{config.name}: compiled in {time.perf_counter() - start:.1f} s\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
