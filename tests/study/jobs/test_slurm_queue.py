"""When Slurm is asked about the jobs of an invocation."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.jobs import slurm_queue
from study.jobs.job_script import ENDED
from study.jobs.slurm_jobs import Listing
from study.jobs.slurm_queue import Look, SlurmQueue, WatchedJob
from study.jobs.submitted import Submission
from study.jobs.verdict import GONE


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


def note(logs: Path, label: str, code: int) -> Path:
    """Write what a job notes when it ends."""
    (logs / ENDED).mkdir(exist_ok=True)
    path = logs / ENDED / label
    path.write_text(f"{code}\n")
    return path


def test_a_note_counts_only_if_it_was_made_while_its_job_was_in_the_queue(tmp_path: Path) -> None:
    """Slurm may give out ids again: an earlier job with this one has noted its end, too."""
    old = note(tmp_path, "1", 0)
    os.utime(old, (1.0, 1.0))
    queue, info = SlurmQueue(tmp_path, first_poll_s=20), job(1)
    queue.add(info)
    assert queue.look([]).codes == {}
    old.unlink()
    note(tmp_path, "1", 3)
    note(tmp_path, "2", 0)  # not ours
    assert queue.look([]).codes == {"1": 3}
    assert queue.look([]).codes == {}
    queue.remove(info)
    assert not old.exists()


def test_a_note_that_may_not_be_removed_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of another user in a shared folder. An error would end Snakemake."""
    queue, info = SlurmQueue(tmp_path, first_poll_s=20), job(1)
    queue.add(info)
    path = note(tmp_path, "1", 0)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    queue.remove(info)
    assert not queue.jobs and path.exists()
    assert not SlurmQueue(tmp_path, first_poll_s=20).look([]).codes


@pytest.mark.parametrize(("code", "state"), [(0, "COMPLETED"), (3, "FAILED"), (None, GONE)])
def test_a_job_that_squeue_no_longer_lists_ended_as_it_has_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None, state: str
) -> None:
    """If the accounting has not recorded it; only the second answer without it counts."""
    monkeypatch.setattr(slurm_queue, "find_recorded_state", lambda job_id, cluster: "")
    queue, info = SlurmQueue(tmp_path, first_poll_s=20), job(1)
    queue.add(info)
    if code is not None:
        note(tmp_path, "1", code)
    seen = Look({}, Listing())
    assert [queue.find_end(info, seen) for _ in range(2)] == [None, state]
