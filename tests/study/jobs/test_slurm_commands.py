"""What the answers of Slurm's commands mean."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from study.jobs import slurm_commands
from study.jobs.slurm_commands import (
    Answer,
    Listing,
    QueuedJob,
    ask,
    cancel_jobs,
    classify_refusal,
    find_refusal,
    find_submit_limits,
    list_jobs,
)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is printed by a command whose line has certain words."""
    printed: dict[str, str] = {}

    def ask(command: Sequence[str], stdin: str | None = None) -> Answer:
        line = " ".join(command)
        return Answer(0, "".join(out for words, out in printed.items() if words in line), "")

    monkeypatch.setattr(slurm_commands, "ask", ask)
    monkeypatch.setattr(slurm_commands.shutil, "which", lambda command: command)
    return printed


def test_a_line_of_squeue_is_a_job(answers: dict[str, str]) -> None:
    answers["squeue -M trial --me"] = (
        "CLUSTER: trial\n8|PENDING|0:00|30:00|Priority|study/one/1|a | b\n"
    )
    job = QueuedJob("8", "PENDING", "Priority", "study/one/1", "a | b", 0.0, 1800.0, "trial")
    assert list_jobs(["trial"]) == Listing({("trial", "8"): job})


@pytest.mark.parametrize(
    ("used", "limit", "expected"),
    [
        ("0:35", "10:00", (35.0, 600.0)),
        ("1:02:03", "7-00:00:00", (3723.0, 604800.0)),
        ("1-02:03:04", "UNLIMITED", (93784.0, None)),
        ("INVALID", "NOT_SET", (None, None)),
    ],
)
def test_times_of_squeue(
    answers: dict[str, str], used: str, limit: str, expected: tuple[float | None, float | None]
) -> None:
    answers["squeue"] = f"8|RUNNING|{used}|{limit}|None|name|comment\n"
    (job,) = list_jobs([None]).jobs.values()
    assert (job.used_s, job.limit_s) == expected


def answering(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> list[Sequence[str]]:
    """Give every command the same answer; return the commands as they are asked."""
    asked: list[Sequence[str]] = []

    def ask(command: Sequence[str], stdin: str | None = None) -> Answer:
        asked.append(command)
        return answer

    monkeypatch.setattr(slurm_commands, "ask", ask)
    return asked


def test_each_slurm_cluster_answers_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(command: Sequence[str], stdin: str | None = None) -> Answer:
        if "nowhere" in command:
            return Answer(1, "", "squeue: error: No cluster 'nowhere' known by database.")
        return Answer(0, "8|RUNNING|0:35|10:00|None|name|comment\n", "")

    monkeypatch.setattr(slurm_commands, "ask", ask)
    listed = list_jobs([None, "nowhere"])
    assert list(listed.jobs) == [(None, "8")]
    assert listed.silence() == "squeue does not answer (cluster nowhere)"


def test_the_jobs_of_others_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, Answer(0, "", ""))
    us = slurm_commands.name_of_user()
    list_jobs([None], {us, None})
    list_jobs([None], {us, "daemon", "no-such-user"})  # squeue refuses a name that is unknown
    assert "--me" in asked[0]
    assert f"--user={us},daemon" in asked[1]
    assert all("--all" in command for command in asked)  # partitions may be hidden


def test_jobs_are_cancelled_on_their_slurm_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, Answer(1, "", "scancel: error: no answer"))
    assert cancel_jobs(["74", "75"], "other") == "scancel: error: no answer"
    assert asked == [["scancel", "-M", "other", "74", "75"]]


def test_what_a_user_likes_to_see_does_not_change_the_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The environment of the commands, as they see it."""
    dropped = (
        *("SQUEUE_PARTITION", "SQUEUE_FORMAT", "SACCT_FEDERATION", "SCANCEL_STATE", "SINFO_SORT"),
        *("SLURM_TIME_FORMAT", "SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_CLUSTERS"),
    )
    kept = ("SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_RESERVATION", "SLURM_CONF", "SLURM_CLUSTERS")
    for name in (*dropped, *kept):
        monkeypatch.setenv(name, "value")
    seen = ask(["env"]).out.splitlines()
    assert [name for name in dropped if f"{name}=value" in seen] == []
    assert [name for name in kept if f"{name}=value" in seen] == list(kept)


def test_a_reservation_that_has_not_begun_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Slurm 22.05 answers a test; sbatch itself accepts the job, and it pends."""
    said = Answer(1, "", "allocation failure: Invalid time specified\n")
    monkeypatch.setattr(slurm_commands, "ask", lambda command, stdin=None: said)
    assert find_refusal(["sbatch", "--reservation=later"], "", "gpu", None) == ""
    assert "Invalid time" in find_refusal(["sbatch", "--deadline=now"], "", "gpu", None)


def test_the_lower_limit_of_account_and_qos_applies(answers: dict[str, str]) -> None:
    answers["show assoc"] = "ours|normal|8\nother|few|\nclosed|normal|0\nten|normal|10\n"
    answers["show qos"] = "normal|\nfew|2\n"
    answers["show user"] = "me|ours\n"
    limit = find_submit_limits()
    assert [limit(None, None), limit(None, "few"), limit("other", None)] == [8, 2, 2]
    assert [limit("other", "normal"), limit("unknown", None), limit("ten", None)] == [
        None,
        None,
        10,
    ]
    # To wait until fewer than no jobs are in the queue takes for ever.
    assert limit("closed", None) is None


def test_an_account_whose_clusters_have_different_limits_has_none(answers: dict[str, str]) -> None:
    answers["show assoc"] = "ours|normal|8\nours|normal|1\nours|normal|8\nsame|few|3\nsame|few|3\n"
    limit = find_submit_limits()
    assert [limit("ours", None), limit("same", None)] == [None, 3]


def test_accounting_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(
        monkeypatch, Answer(1, "", "sacctmgr: error: slurm_persist_conn_open: No response")
    )
    monkeypatch.setattr(slurm_commands.shutil, "which", lambda command: command)
    assert find_submit_limits()("ours", "few") is None
    assert len(asked) == 1


def test_without_accounting_there_is_no_limit(answers: dict[str, str]) -> None:
    answers["sacctmgr"] = "You are not running a supported accounting_storage plugin\n"
    assert find_submit_limits()(None, None) is None


def test_a_request_for_nodes_that_are_down_waits_also_on_another_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    down = {"-M theirs": "CLUSTER: theirs\n2\n", "-M ours": "CLUSTER: ours\n"}

    def ask(command: Sequence[str], stdin: str | None = None) -> Answer:
        if command[0] == "sinfo":
            return Answer(0, down[" ".join(command[1:3])], "")
        said = "allocation failure: Requested node configuration is not available"
        return Answer(1, "", f"sbatch: error: {said}\n")

    monkeypatch.setattr(slurm_commands, "ask", ask)
    assert find_refusal(["sbatch"], "", "gpu", "theirs") == ""
    assert "is not available" in find_refusal(["sbatch"], "", "gpu", "ours")


@pytest.mark.parametrize("by", ["time limit", "SIGTERM"])
def test_a_command_that_gives_no_answer_is_ended(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    started: list[subprocess.Popen[str]] = []

    class Command(subprocess.Popen[str]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

        def communicate(self, *args: Any, **kwargs: Any) -> tuple[str, str]:
            if by == "SIGTERM":
                sys.exit("from the handler of the signal")
            return super().communicate(*args, **kwargs)

    monkeypatch.setattr(slurm_commands.subprocess, "Popen", Command)
    monkeypatch.setattr(slurm_commands, "TIMEOUT_S", 0.1)
    if by == "SIGTERM":
        with pytest.raises(SystemExit):
            ask(["sleep", "60"])
    else:
        answer = ask(["sleep", "60"])
        assert (answer.code, classify_refusal(answer.message)) == (1, "transient")
    assert [command.returncode for command in started] == [-signal.SIGKILL]
