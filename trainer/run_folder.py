"""The folder of a run: who may write in it, what stands in it, and run.json, its account."""

import datetime
import fcntl
import hashlib
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any, Literal

from trainer.config import RunConfig
from trainer.metrics import write_atomically
from trainer.settings import make_folder

RUN_FILES = (
    *("run.json", "metrics.jsonl", "metrics.eval.jsonl", "checkpoints"),
    *("tensorboard", "profiling"),
)
"""What a run leaves behind and the next one would mix with its own."""

LAG_S = 1.0
"""Seconds that run.json may lag behind the records: to replace a file takes a millisecond, on a
network file system more."""

Action = Literal["start", "resume", "done"]


class Lock:
    """The right to train in a folder, of one process at a time; it ends with the process."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where there is none. Raises ConfigError where that cannot be."""
        make_folder(folder, "dump_dir")
        self._file = (folder / ".lock").open("w")

    def try_acquire(self) -> bool:
        """Take the lock unless another process has it; say whether it is ours."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give it back."""
        self._file.close()


def choose_action(folder: Path, config: RunConfig, gpus: int, content: dict[str, str]) -> Action:
    """Say what is to be done in a folder, from the account of the run that stands there.

    The same run, completed: nothing. The same losses, not completed: go on. Anything else: start.
    `content` holds the key of each source's text.
    """
    facts = read_facts(folder)
    if facts is None or facts.get("content") != content:
        return "start"
    if facts.get("status") == "completed":
        return "done" if facts.get("fingerprint") == config.fingerprint(gpus) else "start"
    return "resume" if facts.get("trajectory") == config.trajectory(gpus) else "start"


def is_completed(folder: Path) -> bool:
    """Say whether the run that stands in a folder, whichever it is, has come to its end."""
    facts = read_facts(folder)
    return facts is not None and facts.get("status") == "completed"


def read_facts(folder: Path) -> dict[str, Any] | None:
    """Return what run.json says; None where there is none."""
    try:
        facts = json.loads((folder / "run.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def set_aside(folder: Path) -> None:
    """Move what another run left in a folder to `superseded/<n>`: nothing computed is lost."""
    old = [folder / name for name in RUN_FILES if (folder / name).exists()]
    if not old:
        return
    number = 1 + sum(1 for _ in folder.glob("superseded/*"))
    target = folder / "superseded" / str(number)
    target.mkdir(parents=True)
    for path in old:
        path.replace(target / path.name)
    print(f"{folder}: the settings have changed; the earlier run is in {target}", flush=True)


class RunFile:
    """run.json: written when the run starts, replaced atomically as it goes on."""

    def __init__(self, folder: Path, facts: dict[str, Any], previous: list[Any]) -> None:
        self._path = folder / "run.json"
        for attempt in previous:  # an attempt that was killed could not write its end
            if attempt["status"] == "running":
                attempt["status"] = "failed"
        self.attempt = {
            "attempt": len(previous) + 1,
            "start": _now(),
            "end": None,
            "wall_s": None,
            "status": "running",
            "fingerprint": facts["fingerprint"],
            "gpus": facts["gpus"],
            "hosts": facts["hosts"],
        }
        self.facts = {"status": "running", "outcome": None, **facts}
        self.facts["attempts"] = [*previous, self.attempt]
        self.write()

    @property
    def began(self) -> str:
        """When the run's first attempt started."""
        return self.facts["attempts"][0]["start"]

    def note(self, **changes: Any) -> None:
        """Take over changes that the file may lag behind with, by `LAG_S`."""
        self.facts.update(changes)
        if time.monotonic() - self._written >= LAG_S:
            self.write()

    def write(self, **changes: Any) -> None:
        """Take over changes and write the file."""
        self.facts.update(changes)
        self._written = time.monotonic()
        write_atomically(self._path, json.dumps(self.facts, indent=1) + "\n")

    def end(self, status: str, wall_s: float, **changes: Any) -> None:
        """Close the attempt."""
        self.attempt.update(status=status, end=_now(), wall_s=wall_s)
        self.write(status=status, **changes)


def describe_software() -> dict[str, Any]:
    """Return versions, commit and the hash of the trainer's sources."""
    import torch

    return {
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda,
        },
        "commit": _commit(),
        "trainer_version": _source_hash(),
    }


def _source_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
