"""Where a checkpoint stands, and whether it is whole: state.json and the files that it lists."""

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK_BYTES = 2**20
STATE = "state.json"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read."""


@dataclass(frozen=True)
class Position:
    """Where a checkpoint stands."""

    step: int
    """Optimizer steps done."""
    elapsed_s: float
    """Seconds of wall-clock time that the run had taken, over all attempts."""
    trajectory: str
    """`RunConfig.trajectory`: what the sequence of losses depends on."""
    loss_sum: float = 0.0
    """Sum of the losses since the last record, and over how many steps."""
    loss_steps: int = 0


def find_steps(folder: Path, trajectory: str | None = None) -> list[int]:
    """Return the steps of the whole checkpoints, newest first; of one trajectory, where named."""
    return [
        facts["step"]
        for _, facts in complete(folder)
        if trajectory is None or facts["trajectory"] == trajectory
    ]


def complete(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the whole checkpoints and their state.json, newest first; say what is passed over."""
    for path in sorted(folder.glob("[0-9]*"), reverse=True):
        try:
            facts = read_state(path)
            expected = {name: known["size"] for name, known in facts["files"].items()}
            sizes = {name: (path / name).stat().st_size for name in expected}
        except (OSError, ValueError) as error:
            print(f"warning: {path}: not a whole checkpoint, passed over: {error}", flush=True)
            continue
        if sizes == expected:
            yield path, facts
        else:
            print(f"warning: {path}: files are cut short, passed over", flush=True)


def fingerprint_of(path: Path) -> dict[str, int]:
    """Return size and CRC-32 of a file, by which a torn or changed one is recognised."""
    check = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            check = zlib.crc32(block, check)
    return {"size": path.stat().st_size, "crc32": check}


def write_state(path: Path, facts: dict[str, Any]) -> None:
    """Write state.json, with a check sum of its own, and bring the folder to the disk."""
    with (path / STATE).open("w") as file:
        json.dump({**facts, "crc32": _check_sum(facts)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    flush(path)


def read_state(path: Path) -> dict[str, Any]:
    """Return what state.json says. Raises OSError, or ValueError where it was changed."""
    facts = json.loads((path / STATE).read_text())
    if not isinstance(facts, dict) or facts.pop("crc32", None) != _check_sum(facts):
        raise ValueError(f"{STATE} was changed")
    return facts


def _check_sum(facts: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def is_intact(path: Path, facts: dict[str, Any]) -> bool:
    """Say whether the files are what was written, byte by byte."""
    for name, known in facts["files"].items():
        if fingerprint_of(path / name) != known:
            print(f"warning: {path}: {name} was changed, passed over", flush=True)
            return False
    return True


def flush(folder: Path) -> None:
    """Make a rename in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
