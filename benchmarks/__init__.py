"""Benchmarks: `python -m benchmarks.NAME`, from the repository's root; `--help` describes each."""

import argparse
from pathlib import Path

ROOT = Path(__file__).parents[1]


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose --help begins with a module's docstring."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_other_trainers(parser: argparse.ArgumentParser) -> None:
    """Add --also: trainers to measure beside ours, each a format of study/measure/foreign_logs.py,
    a shell command and a log."""
    parser.add_argument(
        "--also",
        nargs=3,
        action="append",
        default=[],
        metavar=("FORMAT", "COMMAND", "LOG"),
        help="another trainer: the format of its log, such as lingua, its shell command, its log",
    )
