"""The state.json of a checkpoint: its position, and the files that make it complete."""

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.json_files import parse_json

BLOCK_BYTES = 2**20
STATE = "state.json"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read."""


@dataclass(frozen=True)
class Position:
    """The state of a run at a checkpoint, besides its tensors."""

    step: int
    """Optimizer steps done."""
    elapsed_s: float
    """Wall-clock seconds of the run so far, over all attempts."""
    trajectory: str
    """`RunConfig.trajectory`: what the sequence of losses depends on."""
    loss_sum: float = 0.0
    """Sum of the training losses since the last record."""
    loss_steps: int = 0
    """Steps in that sum."""


def find_steps(folder: Path, trajectory: str | None = None) -> list[int]:
    """Return the steps of the complete checkpoints, newest first; of one trajectory, if given."""
    return [
        facts["step"]
        for _, facts in complete(folder)
        if trajectory is None or facts["trajectory"] == trajectory
    ]


def complete(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the complete checkpoints and their state.json, newest first; warn of skipped ones."""
    for path in sorted(folder.glob("[0-9]*"), reverse=True):
        try:
            facts = read_state(path)
            expected = {name: known["size"] for name, known in facts["files"].items()}
            sizes = {name: (path / name).stat().st_size for name in expected}
        except (OSError, ValueError) as error:
            print(f"warning: {path}: incomplete checkpoint, skipped: {error}", flush=True)
            continue
        if sizes == expected:
            yield path, facts
        else:
            print(f"warning: {path}: truncated files, skipped", flush=True)


def fingerprint_of(path: Path) -> dict[str, int]:
    """Return size and CRC-32 of a file, to detect truncated or changed files."""
    check = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            check = zlib.crc32(block, check)
    return {"size": path.stat().st_size, "crc32": check}


def write_state(path: Path, facts: dict[str, Any]) -> None:
    """Write state.json, with its own checksum, and sync the folder to disk."""
    with (path / STATE).open("w") as file:
        json.dump({**facts, "crc32": _checksum(facts)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    flush(path)


def read_state(path: Path) -> dict[str, Any]:
    """Return the content of state.json. Raises OSError, or ValueError if it was changed."""
    facts = parse_json((path / STATE).read_bytes())
    if not isinstance(facts, dict) or facts.pop("crc32", None) != _checksum(facts):
        raise ValueError(f"{STATE} was changed")
    return facts


def _checksum(facts: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def is_intact(path: Path, facts: dict[str, Any]) -> bool:
    """Say whether the files have their recorded sizes and checksums; warn if not."""
    for name, known in facts["files"].items():
        if fingerprint_of(path / name) != known:
            print(f"warning: {path}: {name} was changed, skipped", flush=True)
            return False
    return True


def flush(folder: Path) -> None:
    """Make a rename in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
