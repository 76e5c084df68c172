"""Jobs as Slurm's commands tell of them: in the queue, and after their end."""

import pwd
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from study.jobs.slurm_commands import Answer, ask, name_of_user, on_cluster

ENDS = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
    }
)
"""States of jobs that have ended. All others, to which new versions add some, a job leaves again;
https://slurm.schedmd.com/job_state_codes.html"""

# Reasons of squeue for which a waiting job will not start however long it waits.
_NEVER_STARTS = re.compile(
    r"Max\w*Per(Job|Node)|MaxMemPerLimit|Partition(TimeLimit|NodeLimit)|QOSMin|NotAllowed|Invalid(Account|QOS)"
    r"|BadConstraints|DependencyNeverSatisfied"
)
_HELD = re.compile(r"JobHeld|JobHoldMaxRequeue|requeued[ _](in[ _])?held", re.IGNORECASE)
# GPU or CPU minutes, or hours of jobs, that an account may use up; not GrpCPURunMinutesLimit, which
# bounds the jobs that run at a time.
_USED_UP = re.compile(r"Grp(?!\w*RunMin)\w*(Minutes|Wall)")
NEEDS_LESS_TIME = re.compile(r"PartitionTimeLimit|MaxWallDurationPerJob|Max\w+MinutesPerJob")
"""Reasons of squeue that a shorter time limit removes."""


@dataclass(frozen=True)
class QueuedJob:
    """A line of squeue."""

    job_id: str
    state: str
    reason: str
    name: str
    comment: str
    used_s: float | None = None
    """Time that it has run since its last start, s; None if it is not known."""
    limit_s: float | None = None
    """Its time limit, s; None if it has none."""
    cluster: str | None = None
    """Its Slurm cluster; None is the default one."""

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return self.state not in ENDS

    @property
    def label(self) -> str:
        """What tells it from all other jobs."""
        return label_of(self.job_id, self.cluster)


def label_of(job_id: str, cluster: str | None) -> str:
    """Return what tells a job from all others, for people and as a file's name: its id, and the
    name of its Slurm cluster if it was asked for by name; two clusters give out the same ids."""
    return f"{job_id}@{cluster}" if cluster else job_id


def by_age(label: str) -> tuple[int, str]:
    """Return what sorts the ids or labels of jobs in the order in which Slurm gave them out."""
    return len(label), label


def why_stuck(job: QueuedJob) -> tuple[str, str] | None:
    """Return what the reason of a waiting job means if time alone does not start it, and the
    remedy, for people."""
    there = "".join(f"{word} " for word in on_cluster(job.cluster))
    cancel = f"scancel {there}{job.job_id}"
    anew = f"ancel it ({cancel}), change its request and start Snakemake again."
    if _HELD.search(job.reason) or job.state in ("REQUEUE_HOLD", "SPECIAL_EXIT"):
        return "is held", f"Release it (scontrol {there}release {job.job_id})."
    if _USED_UP.search(job.reason):
        return "waits until its account or QOS is granted more", f"Ask for more, or c{anew}"
    if _NEVER_STARTS.search(job.reason) or job.state == "RESV_DEL_HOLD":
        return "will never start", f"C{anew}"
    return None


@dataclass(frozen=True)
class Listing:
    """What squeue answered."""

    jobs: Mapping[tuple[str | None, str], QueuedJob] = field(default_factory=dict)
    """Slurm cluster and job id -> job."""
    silent: frozenset[str | None] = frozenset()
    """Slurm clusters that did not answer; None is the default one."""

    def silence(self) -> str:
        """Return who does not answer, for people; empty if all have answered."""
        if not self.silent:
            return ""
        named = ", ".join(sorted(name for name in self.silent if name))
        return "squeue does not answer" + (f" (cluster {named})" if named else "")


def list_jobs(
    clusters: Iterable[str | None], users: Collection[str | None] = frozenset()
) -> Listing:
    """Return all jobs that squeue lists: of this user, or of `users`.

    Jobs that have ended are listed for Slurm's MinJobAge, 5 minutes by default.
    """
    us = name_of_user()
    others = sorted(user for user in users if user and user != us and _is_known(user))
    whose = [f"--user={','.join([us, *others])}"] if others else ["--me"]
    # --all: a partition may be hidden, but its jobs are not to be taken for lost ones.
    shown = ["--all", "--noheader", "--states=all", "--format=%i|%T|%M|%l|%r|%j|%k"]
    found, silent = {}, set()
    for cluster in clusters:
        answer = ask(["squeue", *on_cluster(cluster), *whose, *shown])
        if answer.code:
            silent.add(cluster)
        for line in answer.out.splitlines():
            if line.count("|") >= 6:  # newer versions print the cluster's name first
                job_id, state, used, limit, reason, name, comment = line.split("|", maxsplit=6)
                times = _seconds(used), _seconds(limit)
                found[cluster, job_id] = QueuedJob(
                    *(job_id, state, reason, name, comment, *times), cluster=cluster
                )
    return Listing(found, frozenset(silent))


def _seconds(time: str) -> float | None:
    """Return a time of squeue ([days-][hours:]minutes:seconds) in s; None for words."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", time.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((24 * days + hours) * 60 + minutes) * 60 + seconds)


def cancel_jobs(job_ids: Sequence[str], cluster: str | None) -> str:
    """Cancel jobs of one Slurm cluster; return with which message that failed, if it did."""
    answer = ask(["scancel", *on_cluster(cluster), *job_ids])
    return (answer.message or f"exit code {answer.code}") if answer.code else ""


def find_recorded_state(job_id: str, cluster: str | None) -> str:
    """Return a job's state by the accounting, if there is one; otherwise an empty string."""
    shown = ["--allocations", "--noheader", "--parsable2", "--format=State", f"--jobs={job_id}"]
    answer = ask(["sacct", *on_cluster(cluster), *shown])
    words = [] if answer.code else answer.out.split()
    return words[0].rstrip("+") if words else ""  # 'CANCELLED by 1000' is CANCELLED


def is_forgotten(job_id: str, cluster: str | None) -> bool:
    """Return whether the controller has answered that there is no such job."""
    shown = _show_job(job_id, cluster)
    return "Invalid job id" in shown.err + shown.out


def find_exit_code(job_id: str, cluster: str | None) -> str:
    """Return a job's exit code and signal, as in '0:53'; empty if Slurm does not know the job."""
    return _field_of_job(r"\bExitCode=(\S+)", job_id, cluster)


def find_output_file(job_id: str, cluster: str | None) -> str:
    """Return the path of a job's output; empty if Slurm does not know the job."""
    return _field_of_job(r"^ *StdOut=(.+)$", job_id, cluster).replace("%j", job_id)


def _field_of_job(pattern: str, job_id: str, cluster: str | None) -> str:
    found = re.search(pattern, _show_job(job_id, cluster).out, re.MULTILINE)
    return found.group(1) if found else ""


def _show_job(job_id: str, cluster: str | None) -> Answer:
    return ask(["scontrol", *on_cluster(cluster), "show", "job", job_id])


def _is_known(user: str) -> bool:
    try:
        return bool(pwd.getpwnam(user))
    except KeyError:
        return False  # squeue would refuse the name
