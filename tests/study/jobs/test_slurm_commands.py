"""What the answers of Slurm's commands mean."""

from collections.abc import Sequence

import pytest

from study.jobs import slurm_commands
from study.jobs.slurm_commands import Answer, QueuedJob, list_jobs


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
