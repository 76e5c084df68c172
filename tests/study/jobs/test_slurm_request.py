"""What a job may ask of sbatch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_interface_common.exceptions import WorkflowError

from study.jobs.slurm_request import Prepared, check_extra, cluster_of, comment_of_job, escape


def test_the_slurm_cluster_is_the_jobs_or_that_of_the_users_modules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As sbatch(1) says of SLURM_CLUSTERS."""
    monkeypatch.delenv("SLURM_CLUSTERS", raising=False)
    named = SimpleNamespace(resources={"clusters": "alpha"})
    plain = SimpleNamespace(resources={})
    assert [cluster_of(named), cluster_of(plain)] == ["alpha", None]
    monkeypatch.setenv("SLURM_CLUSTERS", "beta")
    assert [cluster_of(named), cluster_of(plain)] == ["alpha", "beta"]


def test_groups_of_the_same_rules_have_different_comments() -> None:
    """By its comment, a restart finds the job of a group."""

    def group(*outputs: str) -> Any:
        return SimpleNamespace(name="g_train", output=list(outputs), is_group=lambda: True)

    comments = [comment_of_job(group(*files)) for files in ("ab", "cd", "ba")]
    assert comments[0] == comments[2] != comments[1]
    assert all(comment.startswith("rule_g_train_wildcards_") for comment in comments)


def job_with(extra: str) -> Any:
    """Return the used part of a job with more flags for sbatch."""

    class Resources(dict[str, str]):
        slurm_extra = extra

    return SimpleNamespace(resources=Resources(slurm_extra=extra))


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ("--array=1-2", "found --array=1-2; several jobs would train in one folder"),
        ("--arr 1-2", "found --arr; several jobs"),
        ("--exclusive -a 1-2", "found -a; several jobs"),
        ("-a1-2", "found -a1-2; several jobs"),
        ("--wait", "found --wait; Snakemake would wait"),
        ("-W", "found -W; Snakemake would wait"),
        ("--wrap=true", "found --wrap=true; it would replace"),
        ("--test-only", "found --test-only; nothing would be submitted"),
        ("-M other", "found -M; the key is `slurm.clusters`"),
        ("--begin='now", "No closing quotation"),
        ("--mem=1G", "found --mem=1G; the memory has a key of its own"),
        ("--exclusive -p gpu", "found -p; the partition has a key of its own"),
        ("-J mine", "found -J; the job name has a key of its own, or is set by Snakemake"),
    ],
)
def test_flags_that_a_study_cannot_give(extra: str, told: str) -> None:
    with pytest.raises(WorkflowError, match=told.replace("(", r"\\(")):
        check_extra(job_with(extra))


@pytest.mark.parametrize(
    "extra",
    [
        "",
        "--exclusive --signal=USR1@60 --open-mode=append",
        "--wait-all-nodes=1",
        "--begin='now + 1 hours' --licenses=a:1",
        "--hint=nomultithread --gpus-per-task=8",
        "--reservation=project-c --exclude='rack-n ' --open-mode=append",
    ],
)
def test_flags_that_it_can(extra: str) -> None:
    check_extra(job_with(extra))


def test_only_in_its_name_has_the_path_of_a_log_a_pattern() -> None:
    """sbatch(1), "FILENAME PATTERN": %% is a percent sign, and %j and %u are patterns."""
    log = Path("/data/50%junk/100%u/%j.log")
    assert escape(log) == "/data/50%%junk/100%%u/%j.log"
    asked = Prepared(["sbatch"], "script", "name", "comment", None, log)
    assert asked.log_of("7") == "/data/50%junk/100%u/7.log"


def test_a_request_within_so_many_minutes() -> None:
    command = ["sbatch", "-p", "gpu", "-t", "60", "--mem", "60"]
    asked = Prepared(command, "script", "name", "comment", None, Path("log"))
    assert asked.minutes == 60
    assert asked.within(30).command == ["sbatch", "-p", "gpu", "-t", "30", "--mem", "60"]
    assert asked.within(60) == asked.within(None) == asked.within(90) == asked
    assert asked.within(30).digest != asked.digest
