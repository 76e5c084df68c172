"""Whose folder it is: a folder of checkpoints belongs to one run.

That is the run in whose folder it is or, for `checkpoint.path`, the one that owner.json in it
names. A run neither counts, replaces nor deletes what is not its own, so it refuses a folder with
anybody else's checkpoints. Imports no torch.
"""

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from trainer.config import RunConfig
from trainer.files import make_folder, write_atomically
from trainer.folder.checkpoint_state import (
    STATE,
    complete,
    entries,
    folder_of,
    read_state,
)
from trainer.folder.run_file import find_summary
from trainer.problems import ConfigError
from trainer.records import (
    CHECKPOINTS,
    CONFIG,
    EVALUATIONS,
    METRICS,
    SUMMARY,
    RunSummary,
    Written,
)

OWNER = "owner.json"


class Owner(Written):
    """owner.json: the run that a folder of checkpoints belongs to."""

    id: str
    """`RunSummary.id` of the run."""
    name: str
    """Its display name."""
    dump_dir: str
    """Its folder; relative if the checkpoints are in it, so that both can be moved."""

    def is_in(self, run: Path, checkpoints: Path) -> bool:
        """Say whether a run's folder is the one named in the folder of checkpoints."""
        return _is_same(checkpoints / self.dump_dir, run)


def read_owner(checkpoints: Path) -> Owner | None:
    """Return who owns a folder of checkpoints; None if that is not known."""
    try:
        return Owner.model_validate_json((checkpoints / OWNER).read_bytes())
    except (OSError, ValueError):
        return None


def identify(config: RunConfig, run: Path, summary: RunSummary | None) -> str:
    """Return the id of the run in a folder, from run.json or owner.json; a new one if it has none.

    Raises ConfigError if the folder, or that of the checkpoints, belongs to something else.
    """
    checkpoints = folder_of(config, run)
    owner = read_owner(checkpoints)
    is_own = owner is not None and owner.is_in(run, checkpoints)
    stranger = _find_stranger(run) if owner is None else None
    if stranger is not None:
        expected = "a folder of a run, or one that does not exist yet"
        raise ConfigError(str(run), [f"dump_dir: holds {stranger}; expected {expected}"])
    if config.checkpoint is not None and not is_own:
        stranger = _find_owner(checkpoints, run, owner, summary)
        if stranger is not None:
            key = "checkpoint.path" if config.checkpoint.path else "dump_dir"
            expected = "a folder of this run's own"
            raise ConfigError(str(checkpoints), [f"{key}: {stranger}; expected {expected}"])
    if summary is not None and summary.id is not None:
        return summary.id
    if owner is not None and is_own:
        return owner.id
    saved = (facts.get("run") for _, facts in complete(checkpoints))
    return next(filter(None, saved), None) or uuid.uuid4().hex[:16]


def claim(config: RunConfig, run: Path, run_id: str) -> None:
    """Note in a folder named by `checkpoint.path` that it is this run's. Raises ConfigError."""
    if config.checkpoint is None or config.checkpoint.path is None:
        return
    checkpoints = folder_of(config, run)
    make_folder(checkpoints, "checkpoint.path")
    within = checkpoints.resolve().is_relative_to(run.resolve())
    folder = os.path.relpath(run, checkpoints) if within else str(run.absolute())
    owner = Owner(id=run_id, name=config.name, dump_dir=folder)
    if read_owner(checkpoints) != owner:
        write_atomically(checkpoints / OWNER, owner.to_json(indent=1) + "\n")


def check_replaces_nothing(files: Sequence[Path], config: RunConfig, gpus: int) -> None:
    """Raise ConfigError if a run was asked for with the run.yaml of another one, whose folder it
    would take: that of a finished run, with an override, is an easy mistake."""
    folder = Path(config.dump_dir)
    if not any(_is_same(file, folder / CONFIG) for file in files):
        return
    there = find_summary(folder)
    if there is None:
        return
    resumes = there.status != "completed" and there.trajectory == config.trajectory(gpus)
    if not resumes and there.fingerprint != config.fingerprint(gpus):
        found = f"names the folder of a run with other settings ({folder}), which would be replaced"
        expected = f"expected dump_dir=ANOTHER_FOLDER too; to replace it, delete {folder / SUMMARY}"
        raise ConfigError("command line", [f"dump_dir: {found}; {expected}"])


def _find_stranger(run: Path) -> str | None:
    """Return what is in a run's folder but was not written by a run; None if nothing is."""
    if (run / SUMMARY).exists() or (run / CONFIG).exists():
        return None
    files = [name for name in (METRICS, EVALUATIONS) if (run / name).exists()]
    files += [f"{CHECKPOINTS}/{path.name}" for path in entries(run / CHECKPOINTS)[:1]]
    return f"{files[0]} but no {CONFIG}, so it is not a run of this trainer" if files else None


def _find_owner(
    checkpoints: Path, run: Path, owner: Owner | None, summary: RunSummary | None
) -> str | None:
    """Return who else a folder of checkpoints belongs to; None if to nobody or to this run."""
    for other in (checkpoints, checkpoints.parent):
        is_theirs = other == checkpoints or checkpoints.name == CHECKPOINTS
        if is_theirs and (other / SUMMARY).exists() and not _is_same(other, run):
            return f"belongs to the run in {other}"
    if owner is not None:
        place = checkpoints / owner.dump_dir
        if summary is not None and summary.id == owner.id and not (place / SUMMARY).exists():
            return None  # the run was moved
        return f"belongs to the run '{owner.name}' in {place}"
    if _is_same(checkpoints.parent, run) and checkpoints.name == CHECKPOINTS:
        return None  # of an older version
    for path in entries(checkpoints):
        if not (path / STATE).exists():
            return f"holds {path.name}, which is not a checkpoint of this trainer"
        try:
            trajectory = read_state(path)["trajectory"]
        except (OSError, ValueError, KeyError):
            trajectory = None
        if summary is None or trajectory != summary.trajectory:
            return f"holds {path.name}, a checkpoint of another run"
    return None


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one is missing, or its path cannot be one
        return False
