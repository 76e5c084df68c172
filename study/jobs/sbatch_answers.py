"""What Slurm answers about requests: refusals, expected starts, and limits of submitted jobs."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from study.jobs.slurm_commands import Answer, ask, name_of_user, on_cluster

# In sbatch's message about a valid request for nodes that are in use; from slurm_errno.c.
_HAS_TO_WAIT = ("busy", "not available now", "not available (")
# In its message about nodes that do not exist; with --test-only, also about nodes that are down.
_NO_SUCH_NODE = "Requested node configuration is not available"
# In its message, with --test-only, about a reservation that has not begun.
_NOT_YET = "invalid time specified"

_IN_SERVICE = frozenset(
    {
        *("idle", "mixed", "allocated", "completing", "planned", "reserved"),
        *("powering_up", "powered_down"),
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
    answer = ask(["sinfo", *on_cluster(cluster), f"--partition={partition}", *shown])
    if answer.code:
        return None
    rows = [line.split("|") for line in answer.out.splitlines() if "|" in line]
    return sum(int(count) for state, count in rows if state.rstrip("*~#!%$@^+-") in _IN_SERVICE)


def is_out_of_reach(cluster: str | None) -> bool:
    """Return whether Slurm cannot be asked from here, for a reason that does not pass: without its
    commands, or without its configuration."""
    answer = ask(["sinfo", *on_cluster(cluster), "--noheader"])
    return answer.code != 0 and classify_refusal(answer.message) == "refused"


def _has_nodes_down(partition: str, cluster: str | None) -> bool:
    shown = ["--noheader", "--states=down,drain,fail,maint,reboot", "--format=%D"]
    answer = ask(["sinfo", *on_cluster(cluster), f"--partition={partition}", *shown])
    lines = answer.out.splitlines()
    return any(line.strip()[:1].isdigit() for line in lines)  # not the cluster's name


def find_submit_limits() -> Callable[[str | None, str | None], int | None]:
    """Return a function from account and QOS to this user's limit of submitted jobs.

    None stands for the default account or QOS, and for no limit that the accounting tells; then
    sbatch alone tells.
    """
    user = name_of_user()
    accounts: dict[str, list[str]] = {}
    fields = "account,defaultqos,maxsubmitjobs"
    associations = _accounting("assoc", fields, f"user={user}")
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
