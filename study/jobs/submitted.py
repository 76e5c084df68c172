"""The record of submitted jobs, which tells a later invocation what is in the queue."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from snakemake_interface_common.exceptions import WorkflowError

from study.grid import Grid
from study.jobs.messages import say
from study.jobs.slurm_commands import ACTIVE, QueuedJob, cancel_job, list_jobs
from trainer.files import write_atomically
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

    def cancel(self) -> None:
        """Cancel the job."""
        cancel_job(self.job_id, self.cluster)


class Record:
    """A file with one line of JSON for each job."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, made: Submission) -> None:
        """Add a job; if the file cannot be written, say so: the job is in the queue anyway."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(made)) + "\n")
        except OSError as error:
            say(
                f"{self._path}: cannot be written: {error.strerror or error}. If Snakemake is "
                f"started again, it will not know of Slurm job {made.job_id}."
            )

    def submissions(self) -> list[Submission]:
        """Return the jobs in the file, in the order of submission."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        return [known for _, known in _parse(lines)]

    def find_queued(
        self, clusters: Iterable[str | None]
    ) -> dict[str, tuple[Submission, QueuedJob]]:
        """Return the jobs that are still in the queue, by comment, and drop the others.

        One squeue for all. Of two jobs for the same work, one that waits is cancelled. Raises
        WorkflowError if Slurm does not answer.
        """
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return {}
        listed = list_jobs(clusters) if lines else {}
        if listed is None:
            raise WorkflowError(
                "Slurm does not answer; whether jobs of an earlier invocation still run is not "
                "known. Start again when squeue answers."
            )
        kept = []
        found: dict[str, tuple[Submission, QueuedJob]] = {}
        for line, known in _parse(lines):
            queued = listed.get((known.cluster, known.job_id))
            if queued and queued.state in ACTIVE and queued.name == known.name:
                kept.append(line)
                other = found.get(known.comment)
                if other and other[1].state != "PENDING":
                    known.cancel()
                    continue
                if other:
                    other[0].cancel()
                found[known.comment] = (known, queued)
        write_atomically(self._path, "".join(f"{line}\n" for line in kept))
        return found


def _parse(lines: Iterable[str]) -> Iterator[tuple[str, Submission]]:
    for line in lines:
        try:
            yield line, Submission(**parse_json(line))
        except (ValueError, TypeError):
            continue  # cut off when the file system was full


def log_folder(grid: Grid) -> Path:
    """Return the absolute folder of a study's Slurm logs; it may be behind a link to scratch."""
    return Path(grid.study.folder).resolve() / "slurm_logs"


def record_of(logs: Path) -> Record:
    """Return the record of the jobs whose logs are in a folder."""
    return Record(logs / "submitted.jsonl")


def comment_of(rule: str, wildcards: Sequence[str]) -> str:
    """Return the comment of a job of a rule, by which a later invocation recognises it.

    It is what the executor plugin calls it.
    """
    values = "_".join(wildcards).replace("/", "_")
    return f"rule_{rule}_wildcards_{values}" if values else f"rule_{rule}"
