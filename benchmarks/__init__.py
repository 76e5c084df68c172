"""Benchmarks: `python -m benchmarks.NAME`, from the repository's root; `--help` describes each."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from study.measure.foreign_logs import FORMATS
from trainer.problems import ConfigError

ROOT = Path(__file__).parents[1]


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose --help begins with a module's docstring."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a benchmark and exit; mistakes of the user are printed without a traceback."""
    try:
        sys.exit(main())
    except ConfigError as error:
        sys.exit(str(error))
    except OSError as error:
        if error.filename is None:  # not a path that the user gave
            raise
        sys.exit(f"{error.filename}: {error.strerror}")


class _OtherTrainer(argparse.Action):
    """Appends a trainer of --also; its format must be known before anything is measured."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        if values[0] not in FORMATS:
            expected = ", ".join(FORMATS)
            raise argparse.ArgumentError(self, f"found '{values[0]}'; expected one of {expected}")
        known: Sequence[Any] = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*known, values])


def add_other_trainers(parser: argparse.ArgumentParser) -> None:
    """Add --also: trainers to measure beside ours, each a format of study/measure/foreign_logs.py,
    a shell command and a log."""
    parser.add_argument(
        "--also",
        nargs=3,
        action=_OtherTrainer,
        default=[],
        metavar=("FORMAT", "COMMAND", "LOG"),
        help="another trainer: the format of its log, such as lingua, its shell command, its log",
    )
