"""Slurm's commands and what their answers mean. Knows nothing of Snakemake or of studies."""

import getpass
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

TIMEOUT_S = 60
"""Time limit of a Slurm command."""

ACTIVE = frozenset(
    {
        *("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED"),
        *("REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "RESV_DEL_HOLD", "REVOKED", "SIGNALING"),
        *("SPECIAL_EXIT", "STAGE_OUT", "STOPPED"),
    }
)
"""States that a job leaves again; squeue(1), "JOB STATE CODES"."""

NEVER_STARTS = re.compile(
    r"Max\w*Per(Job|Node)|Partition(TimeLimit|NodeLimit)|QOSMin|NotAllowed|Invalid(Account|QOS)"
    r"|BadConstraints|DependencyNeverSatisfied"
)
"""Reasons of squeue for which a waiting job will not start however long it waits."""

# In sbatch's message about a valid request for nodes that are in use; from slurm_errno.c.
_HAS_TO_WAIT = ("busy", "not available now", "not available (")
# In its message about nodes that do not exist; with --test-only, also about nodes that are down.
_NO_SUCH_NODE = "Requested node configuration is not available"

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


def list_jobs(clusters: Iterable[str | None]) -> dict[tuple[str | None, str], QueuedJob] | None:
    """Return all jobs of this user that squeue lists, by cluster and id; None without an answer.

    Jobs that have ended are listed for Slurm's MinJobAge, 5 minutes by default.
    """
    found = {}
    for cluster in clusters:
        shown = ["--noheader", "--states=all", "--format=%i|%T|%r|%j|%k"]
        answer = ask(["squeue", *_on(cluster), "--me", *shown])
        if answer.code:
            return None
        for line in answer.out.splitlines():
            if line.count("|") >= 4:  # newer versions print the cluster's name first
                job = QueuedJob(*line.split("|", maxsplit=4))
                found[cluster, job.job_id] = job
    return found


def cancel_job(job_id: str, cluster: str | None) -> None:
    """Cancel a job."""
    ask(["scancel", *_on(cluster), job_id])


def find_recorded_state(job_id: str, cluster: str | None) -> str:
    """Return a job's state by the accounting, if there is one; otherwise an empty string."""
    if shutil.which("sacct") is None:
        return ""
    shown = ["--allocations", "--noheader", "--parsable2", "--format=State", f"--jobs={job_id}"]
    words = ask(["sacct", *_on(cluster), *shown]).out.split()
    return words[0].rstrip("+") if words else ""  # 'CANCELLED by 1000' is CANCELLED


def find_exit_code(job_id: str, cluster: str | None) -> str:
    """Return a job's exit code and signal, as in '0:53'; empty if Slurm does not know the job."""
    return _field_of_job(r"\bExitCode=(\S+)", job_id, cluster)


def find_output_file(job_id: str, cluster: str | None) -> str:
    """Return the path of a job's output; empty if Slurm does not know the job."""
    return _field_of_job(r"^ *StdOut=(.+)$", job_id, cluster).replace("%j", job_id)


def _on(cluster: str | None) -> list[str]:
    return ["-M", cluster] if cluster else []


def _field_of_job(pattern: str, job_id: str, cluster: str | None) -> str:
    shown = ask(["scontrol", *_on(cluster), "show", "job", job_id]).out
    found = re.search(pattern, shown, re.MULTILINE)
    return found.group(1) if found else ""


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
    return _refusal(ask([*command, "--test-only"], stdin=script), partition, cluster)


def _refusal(answer: Answer, partition: str, cluster: str | None) -> str:
    """Return with which message sbatch refused the request of a test; empty if it did not."""
    message = answer.message
    if answer.code == 0 or classify_refusal(message) != "refused":
        return ""
    if any(words in message.lower() for words in _HAS_TO_WAIT):
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
    refusal = _refusal(answer, partition, cluster)
    found = _START.search(answer.err)
    if refusal or found is None:
        return ExpectedStart(None, refusal)
    start = datetime.fromisoformat(found.group(1))  # local time, as now() is
    return ExpectedStart(max(0.0, (start - datetime.now()).total_seconds()))


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
    if shutil.which("sacctmgr") is None:
        return lambda account, qos: None
    user = getpass.getuser()
    accounts: dict[str, list[str]] = {}
    for account, *row in _accounting("assoc", "account,defaultqos,maxsubmitjobs", f"user={user}"):
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
