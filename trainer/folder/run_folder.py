"""The folder of a run: its files, and what becomes of those of an earlier one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.config import RunConfig, load_run_config
from trainer.files import SUPERSEDED, move_aside
from trainer.folder.checkpoint_state import STATE, complete, entries, folder_of
from trainer.folder.owner import read_owner
from trainer.folder.run_file import find_summary
from trainer.records import (
    CHECKPOINTS,
    CONFIG,
    EVALUATION,
    EVALUATIONS,
    EXPORT,
    METRICS,
    SUMMARY,
    RunSummary,
)

RUN_FILES = (
    *(SUMMARY, METRICS, EVALUATIONS, CONFIG, CHECKPOINTS, "tensorboard", "profiling"),
    *(EXPORT, EVALUATION),  # those of the next run would take their place
)
"""Files of a run, to be moved aside when another run starts in the folder."""

Action = Literal["start", "resume", "done"]


@dataclass(frozen=True)
class Decision:
    """What a run does in its folder."""

    action: Action
    run_id: str | None = None
    """`RunSummary.id` of the run."""
    earlier: RunSummary | None = None
    """run.json of its earlier attempts, if it is resumed."""


def choose_action(
    folder: Path,
    config: RunConfig,
    gpus: int,
    summary: RunSummary | None,
    content: dict[str, str],
    training_content: dict[str, str],
) -> Action:
    """Return what to do in a folder, by its run.json or else by its checkpoints.

    The same run, completed: nothing. The same losses, not completed: resume. Anything else: start.
    `content` is source -> key of its text and tokenizer, `training_content` the same without the
    held-out text, on which the losses do not depend.
    """
    if summary is None:
        return "resume" if _has_checkpoint(folder, config, gpus, training_content) else "start"
    if summary.content != content:
        if summary.training_content != training_content:
            return "start"
        print(f"warning: {folder}: the held-out text has changed since the run began", flush=True)
    if summary.status == "completed":
        return "done" if summary.fingerprint == config.fingerprint(gpus) else "start"
    return "resume" if summary.trajectory == config.trajectory(gpus) else "start"


def _has_checkpoint(folder: Path, config: RunConfig, gpus: int, content: dict[str, str]) -> bool:
    """Say whether a run whose run.json is missing or malformed has a checkpoint."""
    found = any(
        facts.get("content") in (None, content)
        for _, facts in complete(folder_of(config, folder), config.trajectory(gpus))
    )
    if found:
        print(f"warning: {folder}: {SUMMARY} cannot be read; resuming without it", flush=True)
    return found


def is_completed(folder: Path) -> bool:
    """Say whether the folder's run, whichever it is, is completed."""
    summary = find_summary(folder)
    return summary is not None and summary.status == "completed"


def read_settings(folder: Path) -> RunConfig:
    """Return the run.yaml of a run, or of one of its checkpoints. Raises ConfigError."""
    return load_run_config([f"config={folder / CONFIG}"])


def saved_by(run: Path) -> tuple[Path, str | None]:
    """Return the folder of a run's checkpoints, and the trajectory of its own; None: unknown.

    Raises ConfigError if its run.yaml cannot be read.
    """
    summary = find_summary(run)
    return folder_of(read_settings(run), run), summary.trajectory if summary else None


def set_aside(folder: Path, checkpoints: Path | None = None) -> None:
    """Move an earlier run's files to `superseded/<n>`, so that nothing computed is lost.

    `checkpoints` is the folder of its checkpoints, if elsewhere.
    """
    old = [folder / name for name in RUN_FILES if (folder / name).exists()]
    owner = read_owner(folder / CHECKPOINTS)
    if owner is not None and not owner.is_in(folder, folder / CHECKPOINTS):
        old.remove(folder / CHECKPOINTS)
    if old:
        what = "settings or text have changed"
        print(f"{folder}: {what}; the earlier run is in {move_aside(old)}", flush=True)
    elsewhere = [] if checkpoints is None else entries(checkpoints)
    saved = [path for path in elsewhere if (path / STATE).exists()]
    if saved:
        print(f"{folder}: its checkpoints are in {move_aside(saved)}", flush=True)


def bring_back(
    folder: Path,
    config: RunConfig,
    gpus: int,
    content: dict[str, str],
    training_content: dict[str, str],
) -> bool:
    """Move a run that was set aside back into its folder if it is complete and the one wanted, as
    after an edit that was reverted; say whether there was one. What is there now is set aside.

    The other arguments are those of `choose_action`.
    """
    own = folder / CHECKPOINTS
    if folder_of(config, folder) != own or read_owner(own) is not None:
        return False  # checkpoints elsewhere, or those of another run here
    for earlier in (folder / SUPERSEDED).glob("*"):
        summary = find_summary(earlier)
        wanted = (config, gpus, summary, content, training_content)
        if summary is not None and choose_action(earlier, *wanted) == "done":
            set_aside(folder)
            # If this is interrupted, the folder is one of a run that was not completed.
            order = {CONFIG: 0, SUMMARY: 2}
            for path in sorted(earlier.iterdir(), key=lambda path: order.get(path.name, 1)):
                path.replace(folder / path.name)
            earlier.rmdir()
            print(f"{folder}: the run in {earlier} has these settings; it is back", flush=True)
            return True
    return False


def set_records_aside(folder: Path) -> None:
    """Move the records of attempts that left no checkpoint to `superseded/<n>`."""
    old = [folder / name for name in (METRICS, EVALUATIONS) if (folder / name).exists()]
    kept = f"; the earlier records are in {move_aside(old)}" if old else ""
    print(f"{folder}: no checkpoint to resume from, so it starts again{kept}", flush=True)
