"""Common code of autotune and precompile, which run in one process."""

import sys
from collections.abc import Callable, Sequence

from trainer.config import RunConfig, load_run_config
from trainer.execution.choices import Choices
from trainer.loop.learner import set_up_process
from trainer.problems import ConfigError
from trainer.world import World, get_world

USAGE = """usage: python -m trainer.commands.{name} config=run.yaml [key=value ...]

{purpose}

  config=FILE     settings of the run; config/README.md explains every key
  key=value       overrides a setting of the file; the value is read as YAML
"""


def run_command(
    name: str, purpose: str, arguments: Sequence[str], act: Callable[[RunConfig], str]
) -> int:
    """Print the result of `act` on the run that a command line names; return the exit code.

    `name` and `purpose` are for `--help`.
    """
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(USAGE.format(name=name, purpose=purpose), end="")
        return 0
    try:
        text = act(load_run_config(arguments))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(text, end="")
    return 0


def set_up_alone(config: RunConfig, purpose: str) -> tuple[World, Choices]:
    """Set up the process as a run does; return it and what it will use.

    Raises ConfigError, also if the run's weights are sharded over processes. `purpose` is the
    command's name, for the message.
    """
    if config.distributed.shards_weights:
        problem = "distributed: needs unsharded weights (fsdp_type: no_shard, tp_size: 1)"
        raise ConfigError(purpose, [problem])
    world = get_world(config.device, config.gpu_name)
    return world, set_up_process(config, world)
