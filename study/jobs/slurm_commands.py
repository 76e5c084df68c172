"""Slurm's commands and what their answers mean. Knows nothing of Snakemake or of studies."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Literal

TIMEOUT_S = 60
"""Time limit of a Slurm command."""

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


# In sbatch's message about a valid request for nodes that are in use; from slurm_errno.c.
_HAS_TO_WAIT = ("busy", "not available now", "not available (")
# In its message about nodes that do not exist; with --test-only, also about nodes that are down.
_NO_SUCH_NODE = "Requested node configuration is not available"
# In its message, with --test-only, about a reservation that has not begun.
_NOT_YET = "invalid time specified"

_IN_SERVICE = frozenset(
    {
        "idle",
        "mixed",
        "allocated",
        "completing",
        "planned",
        "reserved",
        "powering_up",
        "powered_down",
    }
)
"""States of nodes that run jobs, or will; sinfo(1), "NODE STATE CODES"."""

# What sbatch prints of a request that it accepts.
_START = re.compile(r"\bto start at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\b")

# sbatch prints the limit's name before its general message about accounting and QOS policies.
_LIMIT = re.compile(r"MaxSubmitJob|GrpSubmitJobs|temporarily unable to accept job", re.IGNORECASE)
_TRANSIENT = re.compile(
    r"Unable to contact slurm controller|Socket timed out|temporarily unavailable|no answer within"
    r"|Zero Bytes were transmitted|Connection (refused|reset|timed out)|Unable to connect"
    r"|Communication connection failure|Transport endpoint|slurm_persist_conn|Protocol auth"
    r"|Controller .*standby|Slurm backup controller|Transaction (failed|interrupted)",
    re.IGNORECASE,
)

_CHANGES_ANSWERS = re.compile(
    # What a person likes to see, such as SQUEUE_FORMAT, SQUEUE_PARTITION or SACCT_FEDERATION.
    r"(SQUEUE|SACCT|SCANCEL|SCONTROL|SINFO)_\w+|SLURM_TIME_FORMAT"
    # Several jobs for one run; an sbatch that returns at the end of its job, or asks a Slurm
    # cluster that the others do not ask; a log in two files.
    r"|SBATCH_(ARRAY_INX|WAIT|CLUSTERS|ERROR)"
)
"""Variables that Slurm's commands are run without. Others of sbatch, such as SBATCH_ACCOUNT or
SBATCH_QOS, are a site's or a user's defaults, and apply where the study says nothing."""

_children: set["subprocess.Popen[str]"] = set()
_lock = threading.Lock()


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The error output on one line, without the commands' prefixes."""
        lines = (line.removeprefix("sbatch: error: ") for line in self.err.splitlines())
        return "; ".join(line for line in lines if line.strip())


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
    there = "".join(f"{word} " for word in _on(job.cluster))
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


def environment() -> dict[str, str]:
    """Return the environment without the variables that change what the commands do or print."""
    return {k: v for k, v in os.environ.items() if not _CHANGES_ANSWERS.fullmatch(k)}


@cache
def name_of_user(number: int | None = None) -> str:
    """Return a user's name, or the number if it has none; by default this user's."""
    number = os.getuid() if number is None else number
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _is_known(user: str) -> bool:
    try:
        return bool(pwd.getpwnam(user))
    except KeyError:
        return False  # squeue would refuse the name


def ask(command: Sequence[str], stdin: str | None = None) -> Answer:
    """Run one of Slurm's commands; a command that is missing or gives no answer has code 1."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment(),
            start_new_session=True,  # Ctrl-C must not interrupt a submission halfway
        )
    except OSError as error:
        return Answer(1, "", f"{command[0]}: {error.strerror}")
    with _lock:
        _children.add(process)
    try:
        out, err = process.communicate(stdin, timeout=TIMEOUT_S)
        return Answer(process.returncode, out, err)
    except subprocess.TimeoutExpired:
        return Answer(1, "", f"no answer within {TIMEOUT_S} s")
    finally:
        with process:  # closes its pipes
            process.kill()
        with _lock:
            _children.discard(process)


def abandon() -> None:
    """End the commands that are waiting for an answer."""
    with _lock:
        for process in _children:
            process.send_signal(signal.SIGKILL)


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
        answer = ask(["squeue", *_on(cluster), *whose, *shown])
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
    answer = ask(["scancel", *_on(cluster), *job_ids])
    return (answer.message or f"exit code {answer.code}") if answer.code else ""


def find_recorded_state(job_id: str, cluster: str | None) -> str:
    """Return a job's state by the accounting, if there is one; otherwise an empty string."""
    if shutil.which("sacct") is None:
        return ""
    shown = ["--allocations", "--noheader", "--parsable2", "--format=State", f"--jobs={job_id}"]
    answer = ask(["sacct", *_on(cluster), *shown])
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


def _on(cluster: str | None) -> list[str]:
    return ["-M", cluster] if cluster else []


def _field_of_job(pattern: str, job_id: str, cluster: str | None) -> str:
    found = re.search(pattern, _show_job(job_id, cluster).out, re.MULTILINE)
    return found.group(1) if found else ""


def _show_job(job_id: str, cluster: str | None) -> Answer:
    return ask(["scontrol", *_on(cluster), "show", "job", job_id])


def classify_refusal(message: str) -> Literal["limit", "transient", "refused"]:
    """Say what sbatch's error means: a submit limit, a moment without a controller, or a refusal.

    The first two pass by themselves.
    """
    if _LIMIT.search(message):
        return "limit"
    return "transient" if _TRANSIENT.search(message) else "refused"


def find_refusal(command: Sequence[str], script: str, partition: str, cluster: str | None) -> str:
    """Return with which message sbatch would refuse a request; empty if it would accept it.

    Submits nothing. A request that has to wait, or gets no answer, is not refused.
    """
    answer = ask([*command, "--test-only"], stdin=script)
    return _refusal(answer, command, partition, cluster)


def _refusal(answer: Answer, flags: Sequence[str], partition: str, cluster: str | None) -> str:
    """Return with which message sbatch refused the request of a test; empty if it did not."""
    message = answer.message
    if answer.code == 0 or classify_refusal(message) != "refused":
        return ""
    reserved = any(flag.startswith("--reservation") for flag in flags)
    waits = (*_HAS_TO_WAIT, _NOT_YET) if reserved else _HAS_TO_WAIT
    if any(words in message.lower() for words in waits):
        return ""
    if _NO_SUCH_NODE in message and _has_nodes_down(partition, cluster):
        return ""
    return message or f"exit code {answer.code}"


@dataclass(frozen=True)
class ExpectedStart:
    """When Slurm would start a job, as far as it says so."""

    wait_s: float | None
    """Time until then, s; None if it is not known."""
    refusal: str = ""
    """The message with which it would refuse the job; empty if it would accept it."""


def find_start(flags: Sequence[str], partition: str, cluster: str | None) -> ExpectedStart:
    """Return when a job with these flags of sbatch would start if it were submitted now.

    Submits nothing. Slurm accounts for the jobs that run, by their time limits, and for those that
    wait.
    """
    answer = ask(["sbatch", "--test-only", *flags], stdin="#!/bin/sh\n:\n")
    refusal = _refusal(answer, flags, partition, cluster)
    found = _START.search(answer.err)
    if refusal or found is None:
        return ExpectedStart(None, refusal)
    start = datetime.fromisoformat(found.group(1)).timestamp()  # of a local time
    return ExpectedStart(max(0.0, start - time.time()))


def count_nodes(partition: str, cluster: str | None) -> int | None:
    """Return the number of a partition's nodes that are in service; None if Slurm cannot be asked.

    0 for a partition that does not exist.
    """
    shown = ["--noheader", "--format=%T|%D"]
    answer = ask(["sinfo", *_on(cluster), f"--partition={partition}", *shown])
    if answer.code:
        return None
    rows = [line.split("|") for line in answer.out.splitlines() if "|" in line]
    return sum(int(count) for state, count in rows if state.rstrip("*~#!%$@^+-") in _IN_SERVICE)


def _has_nodes_down(partition: str, cluster: str | None) -> bool:
    shown = ["--noheader", "--states=down,drain,fail,maint,reboot", "--format=%D"]
    lines = ask(["sinfo", *_on(cluster), f"--partition={partition}", *shown]).out.splitlines()
    return any(line.strip()[:1].isdigit() for line in lines)  # not the cluster's name


def find_submit_limits() -> Callable[[str | None, str | None], int | None]:
    """Return a function from account and QOS to this user's limit of submitted jobs.

    None stands for the default account or QOS, and for no limit that the accounting tells; then
    sbatch alone tells.
    """
    user = name_of_user()
    accounts: dict[str, list[str]] = {}
    fields = "account,defaultqos,maxsubmitjobs"
    associations = _accounting("assoc", fields, f"user={user}") if shutil.which("sacctmgr") else []
    if not associations:
        # A daemon in trouble may take a minute not to answer: it is asked no more.
        return lambda account, qos: None
    for account, *row in associations:
        # An account has a row for each of its clusters and partitions, which need not agree.
        if accounts.setdefault(account, row) != row:
            accounts[account] = ["", ""]
    of_qos = {name: most for name, most in _accounting("qos", "name,maxsubmitjobsperuser")}
    default = [account for _, account in _accounting("user", "user,defaultaccount", user)]

    def limit(account: str | None, qos: str | None) -> int | None:
        default_qos, of_account = accounts.get(account or "".join(default[:1]), ["", ""])
        told = [of_account, of_qos.get(qos or default_qos, "")]
        # A limit of 0 would be waited for in silence; sbatch refuses it with a message.
        return min((int(number) for number in told if number.strip("0").isdigit()), default=None)

    return limit


def _accounting(kind: str, fields: str, *which: str) -> list[list[str]]:
    """Return sacctmgr's rows; none without accounting, which it may say on standard output."""
    flags = ["--noheader", "--parsable2", "--readonly"]
    shown = ask(["sacctmgr", *flags, "show", kind, *which, f"format={fields}"]).out
    rows = [line.split("|") for line in shown.splitlines()]
    return [row for row in rows if len(row) == len(fields.split(","))]
