"""The record of submitted jobs, which tells a later invocation what is in the queue."""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

from snakemake_interface_common.exceptions import WorkflowError

from study.files import append_lines
from study.grid import Grid
from study.jobs.messages import say
from study.jobs.slurm_commands import name_of_user
from study.jobs.slurm_jobs import QueuedJob, cancel_jobs, label_of, list_jobs
from trainer.files import write_atomically
from trainer.host import start_ticks
from trainer.json_files import parse_json


@dataclass(frozen=True)
class Submission:
    """A job that was submitted, as it is remembered for later invocations."""

    job_id: str
    cluster: str | None
    name: str
    comment: str
    digest: str
    """Of the whole request: sbatch's arguments and the script."""
    log: str
    user: str | None = None
    """Who submitted it; None in records of earlier versions: the owner of the file."""
    process: str | None = None
    """The process that submitted it, see `name_process`; None in records of earlier versions."""

    @property
    def label(self) -> str:
        """What tells it from all other jobs."""
        return label_of(self.job_id, self.cluster)

    @property
    def is_ours(self) -> bool:
        """Whether this user submitted it."""
        return self.user == name_of_user()

    @property
    def is_watched(self) -> bool:
        """Whether the process that submitted it still runs, on this machine."""
        pid = (self.process or "").split(" ")[1:2]
        if pid == [] or not pid[0].isdecimal() or int(pid[0]) == os.getpid():
            return False
        return name_process(int(pid[0])) == self.process

    def cancel(self) -> None:
        """Cancel the job."""
        cancel_jobs([self.job_id], self.cluster)


def name_process(pid: int) -> str | None:
    """Return what tells a process from all others: host, pid and start; None if it does not run."""
    try:
        return f"{socket.gethostname()} {pid} {start_ticks(pid)}"
    except OSError:
        return None


Found: TypeAlias = tuple[Submission, QueuedJob]
"""A submitted job, and what squeue says of it."""


class Record:
    """A file with one line of JSON for each job."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, made: Submission) -> None:
        """Add a job; if the file cannot be written, say so: the job is in the queue anyway."""
        try:
            append_lines(self._path, _to_line(made))
        except OSError as error:
            say(
                f"{self._path}: cannot be written: {error.strerror or error}. If Snakemake is "
                f"started again, it will not know of Slurm job {made.label}."
            )

    def submissions(self) -> list[Submission]:
        """Return the jobs in the file, in the order of submission."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
            owner = name_of_user(self._path.stat().st_uid)
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                known = Submission(**parse_json(line))
            except (ValueError, TypeError):
                continue  # cut off when the file system was full
            found.append(known if known.user else replace(known, user=owner))
        return found

    def find_queued(self, works: Collection[str]) -> dict[str, Found]:
        """Return the jobs that are still in the queue, by comment, and drop the others.

        One squeue for all of a Slurm cluster. Of two jobs for the same work, one is cancelled. One
        that is ending is not kept: its run saves, and a new job waits until it has.
        What another user submitted is never dropped or cancelled. Raises WorkflowError if Slurm
        does not answer about one of `works`, which are comments.
        """
        submitted = self.submissions()
        listed = list_jobs(
            {known.cluster for known in submitted}, {known.user for known in submitted}
        )
        doubtful = {known.cluster for known in submitted if known.comment in works} & listed.silent
        if doubtful:
            raise WorkflowError(
                f"{replace(listed, silent=frozenset(doubtful)).silence()}: whether jobs of an "
                "earlier invocation still run is not known. Start again when it does."
            )
        kept = []
        found: dict[str, Found] = {}
        for known in submitted:
            queued = listed.jobs.get((known.cluster, known.job_id))
            if queued and queued.name == known.name and _stays(queued):
                kept.append(known)
                _choose(found, known, queued)
            elif not known.is_ours or known.cluster in listed.silent:
                kept.append(known)
        if len(kept) < len(submitted):
            with contextlib.suppress(OSError):  # lines of jobs that have ended do no harm
                write_atomically(self._path, "".join(map(_to_line, kept)))
        return found


def _stays(job: QueuedJob) -> bool:
    return job.is_active and job.state != "COMPLETING"


def _choose(found: dict[str, Found], known: Submission, queued: QueuedJob) -> None:
    """Take a job into `found`. Of two for the same work, the one that waits is cancelled if it is
    ours; of two that wait, ours."""
    both = [known_before] if (known_before := found.get(known.comment)) else []
    both.append((known, queued))
    first, *others = sorted(both, key=lambda one: (one[1].state == "PENDING", one[0].is_ours))
    found[known.comment] = first
    for other, _ in others:
        if other.is_ours:
            other.cancel()


def _to_line(made: Submission) -> str:
    return json.dumps(asdict(made)) + "\n"


def log_folder(grid: Grid) -> Path:
    """Return the absolute folder of a study's Slurm logs; it may be behind a link to scratch."""
    return Path(grid.study.folder).resolve() / "slurm_logs"


def make_folder(folder: Path) -> None:
    """Create a folder below `results_dir`; if that fails, end the program with a message."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(
            f"{folder}: cannot be created: {error.strerror or error}. Expected `results_dir` to be "
            "a folder that you may write to."
        )


def link_log(made: Submission, run: Path) -> None:
    """Link a job's log in its run's folder, named by the job id; if that fails, say so."""
    log, link = Path(made.log), run / "slurm_logs" / f"{made.job_id}.log"
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(log.parent.resolve() / log.name, link.parent.resolve()))
    except OSError as error:
        say(f"{link}: cannot be created: {error.strerror or error}. It would link to {log}.")


def record_of(logs: Path) -> Record:
    """Return the record of the jobs whose logs are in a folder."""
    return Record(logs / "submitted.jsonl")


def comment_of(rule: str, wildcards: Sequence[str]) -> str:
    """Return the comment of a job of a rule, by which a later invocation recognises it.

    It is what the executor plugin calls it.
    """
    values = "_".join(wildcards).replace("/", "_")
    return f"rule_{rule}_wildcards_{values}" if values else f"rule_{rule}"
