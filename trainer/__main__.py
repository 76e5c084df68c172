"""The command: python -m trainer config=run.yaml key=value ..."""

import ctypes
import os
import signal
import sys

from trainer.startup import Startup

PR_SET_PDEATHSIG = 1  # prctl(2)


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    startup = Startup()
    # A launch may ignore SIGTERM so that it outlives its ranks; a rank that starts should not.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # A launcher that is killed asks its ranks to save and leave; else they would train on.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    from trainer.config import ConfigError, load_run_config

    try:
        config = load_run_config(arguments)
        from trainer.loop.run import run  # loads torch: a wrong config is told before that

        startup.mark("imports")
        return run(config, startup)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
