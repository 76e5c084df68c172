"""The command: python -m trainer config=run.yaml key=value ..."""

import sys

from trainer.metrics import Startup


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    startup = Startup()
    from trainer.config import ConfigError, load_run_config

    try:
        config = load_run_config(arguments)
        from trainer.train import run  # loads torch: a wrong config is told before that

        startup.mark("imports")
        return run(config, startup)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
