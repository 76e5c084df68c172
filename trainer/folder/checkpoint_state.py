"""The state.json of a checkpoint: its position, and the files that make it complete."""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from trainer.config import RunConfig
from trainer.json_files import parse_json
from trainer.records import CHECKPOINTS, checkpoint_name
from trainer.tokens.order import AT_ITS_BEGINNING, DataStart

BLOCK_BYTES = 2**20
STATE = "state.json"
METADATA = ".metadata"
"""The index of the tensors."""
CONSOLIDATED = "consolidated.pth"
"""The weights of a checkpoint of lingua in one file."""


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
    run: str | None = None
    """`RunSummary.id` of the run."""
    content: Mapping[str, str] | None = None
    """Source -> key of the text to train on and of the tokenizer."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer."""
    global_batch: int | None = None
    """Sequences of a step."""
    data: DataStart = AT_ITS_BEGINNING
    """Where the run began to read."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Position":
        """Return the position in a state.json."""
        known = {field.name: facts[field.name] for field in fields(cls) if field.name in facts}
        if "data" in known:
            known["data"] = DataStart(**known["data"])
        return cls(**known)

    def is_of(self, facts: Mapping[str, Any]) -> bool:
        """Say whether a state.json belongs to the same run; older versions name none."""
        same_run = None in (self.run, facts.get("run")) or facts["run"] == self.run
        return bool(facts["trajectory"] == self.trajectory and same_run)


def folder_of(config: RunConfig, run: Path) -> Path:
    """Return the folder of a run's checkpoints; `run` is the run's own."""
    path = config.checkpoint and config.checkpoint.path
    return Path(path) if path else run / CHECKPOINTS


def of_step(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return folder / checkpoint_name(step)


def find_steps(folder: Path, trajectory: str | None = None) -> list[int]:
    """Return the steps of the complete checkpoints, newest first; of one trajectory, if given."""
    return [facts["step"] for _, facts in complete(folder, trajectory)]


def complete(folder: Path, trajectory: str | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the complete checkpoints and their state.json, newest first; warn of skipped ones.

    If given, those of one trajectory only.
    """
    for path in entries(folder):
        try:
            facts = read_state(path)
            expected = {name: known["size"] for name, known in facts["files"].items()}
            sizes = {name: (path / name).stat().st_size for name in expected}
        except (OSError, ValueError) as error:
            print(f"warning: {path}: incomplete checkpoint, skipped: {error}", flush=True)
            continue
        if sizes != expected:
            print(f"warning: {path}: truncated files, skipped", flush=True)
        elif trajectory in (None, facts["trajectory"]):
            yield path, facts


def entries(folder: Path) -> list[Path]:
    """Return what is named like a checkpoint in a folder, newest first."""
    return sorted(folder.glob("[0-9]*"), reverse=True)


def fingerprint_of(path: Path) -> dict[str, int]:
    """Return size and CRC-32 of a file, to detect truncated or changed files."""
    check = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            check = zlib.crc32(block, check)
    return {"size": path.stat().st_size, "crc32": check}


def write_state(path: Path, facts: dict[str, Any]) -> None:
    """Write state.json, with its own checksum."""
    (path / STATE).write_text(json.dumps({**facts, "crc32": _checksum(facts)}, indent=1))


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
    changed = _find_changed(path, facts)
    if changed is not None:
        print(f"warning: {path}: {changed} was changed, skipped", flush=True)
    return changed is None


def check_intact(path: Path) -> None:
    """Raise CheckpointError unless the files have their recorded sizes and checksums.

    torch reads changed bytes of a tensor as other numbers.
    """
    try:
        changed = _find_changed(path, read_state(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if changed is not None:
        raise CheckpointError(f"{path}: {changed} was changed since it was saved")


def _find_changed(path: Path, facts: dict[str, Any]) -> str | None:
    files = facts["files"].items()
    return next((name for name, known in files if fingerprint_of(path / name) != known), None)
