"""What Slurm's commands tell of jobs."""

from collections.abc import Sequence

import pytest

from study.jobs.slurm_commands import Answer, name_of_user
from study.jobs.slurm_jobs import Listing, QueuedJob, cancel_jobs, list_jobs
from tests.study.jobs.stand_ins import answering, ask_instead


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


def test_each_slurm_cluster_answers_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(command: Sequence[str], stdin: str | None = None) -> Answer:
        if "nowhere" in command:
            return Answer(1, "", "squeue: error: No cluster 'nowhere' known by database.")
        return Answer(0, "8|RUNNING|0:35|10:00|None|name|comment\n", "")

    ask_instead(monkeypatch, ask)
    listed = list_jobs([None, "nowhere"])
    assert list(listed.jobs) == [(None, "8")]
    assert listed.silence() == "squeue does not answer (cluster nowhere)"


def test_the_jobs_of_others_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, Answer(0, "", ""))
    us = name_of_user()
    list_jobs([None], {us, None})
    list_jobs([None], {us, "daemon", "no-such-user"})  # squeue refuses a name that is unknown
    assert "--me" in asked[0]
    assert f"--user={us},daemon" in asked[1]
    assert all("--all" in command for command in asked)  # partitions may be hidden


def test_jobs_are_cancelled_on_their_slurm_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, Answer(1, "", "scancel: error: no answer"))
    assert cancel_jobs(["74", "75"], "other") == "scancel: error: no answer"
    assert asked == [["scancel", "-M", "other", "74", "75"]]
