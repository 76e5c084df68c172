"""The command: python -m trainer config=run.yaml key=value ..."""

import os
import signal
import sys
from pathlib import Path

from trainer.parent import end_with_parent
from trainer.startup import Startup

USAGE = """usage: python -m trainer config=run.yaml [key=value ...]
       torchrun --nproc_per_node=2 --standalone -m trainer config=run.yaml [key=value ...]

Start or resume one training run.

  config=FILE     settings of the run; config/README.md explains every key
  key=value       overrides a setting of the file: optim.lr=1e-3 data.batch_size=4
                  The value is read as YAML.
"""


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(USAGE, end="")
        return 0
    startup = Startup()
    # A launcher may ignore SIGTERM to outlive its ranks; its ranks must not inherit that.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Until the first step there is nothing to save: Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # If the launcher is killed, its ranks save and exit instead of training on.
        end_with_parent()
    from trainer.config import load_run_config
    from trainer.folder.owner import check_replaces_nothing
    from trainer.gpu_context import open_early
    from trainer.launcher import check_launcher, tell_launcher
    from trainer.problems import ConfigError
    from trainer.ranks import read_ranks

    try:
        check_launcher(os.environ, arguments)
        config = load_run_config(arguments)
        named = [
            Path(text.removeprefix("config=")) for text in arguments if text.startswith("config=")
        ]
        ranks = read_ranks()
        check_replaces_nothing(named, config, ranks.size)
        if config.device == "cuda":
            open_early(ranks.local_rank)
        from trainer.loop.run import run  # loads torch; config errors are reported without it

        startup.mark("imports")
        return run(config, startup)
    except ConfigError as error:
        # The ranks of a machine mostly refuse for the same reason, and torchrun repeats each one's.
        if not tell_launcher(os.environ, str(error)) or read_ranks().local_rank == 0:
            print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
