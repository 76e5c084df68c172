"""Benchmarks: `python -m benchmarks.NAME`, from the repository's root; `--help` describes each."""

import argparse
from pathlib import Path

ROOT = Path(__file__).parents[1]


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose --help begins with a module's docstring."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
