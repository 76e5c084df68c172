"""How Slurm's commands are run."""

import signal
import subprocess
import sys
from typing import Any

import pytest

from study.jobs import slurm_commands
from study.jobs.sbatch_answers import classify_refusal
from study.jobs.slurm_commands import ask


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
