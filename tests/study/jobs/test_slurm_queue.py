"""When Slurm is asked about the jobs of an invocation."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.jobs import slurm_queue
from study.jobs.job_script import ENDED
from study.jobs.slurm_jobs import Listing
from study.jobs.slurm_queue import SlurmQueue, WatchedJob
from study.jobs.submitted import Submission


def job(number: int) -> WatchedJob:
    made = Submission(str(number), None, "name", "comment", "digest", "log", "me")
    return WatchedJob(None, str(number), made=made, cell=None, kind=())


def test_slurm_is_asked_less_and_less_often_until_a_job_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 1.5 x 20 s, then half as much again each time, up to a minute; 20 s after an addition,
    and at once if a job notes that it has failed."""
    now, asked = 0.0, []

    def answer(*_: Any) -> Listing:
        asked.append(now)
        return Listing()

    monkeypatch.setattr(slurm_queue, "list_jobs", answer)
    monkeypatch.setattr(slurm_queue, "time", SimpleNamespace(monotonic=lambda: now))
    queue, first, second = SlurmQueue(tmp_path, first_poll_s=20), job(1), job(2)
    queue.add(first)
    for second_s in range(300):
        now = float(second_s)
        if now == 200:
            queue.remove(first)
            queue.add(second)
        if now == 260:
            (tmp_path / ENDED).mkdir()
            (tmp_path / ENDED / "2").write_text("1")
        if queue.is_due():
            queue.look(queue.jobs.values())
    assert asked == [0, 30, 75, 135, 195, 220, 250, 260]
