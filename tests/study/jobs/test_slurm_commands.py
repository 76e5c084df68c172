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
    QueuedJob,
    ask,
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
    answers["squeue -M trial"] = "CLUSTER: trial\n8|PENDING|Priority|study/one/1|a | b\n"
    assert list_jobs(["trial"]) == {
        ("trial", "8"): QueuedJob("8", "PENDING", "Priority", "study/one/1", "a | b")
    }


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
