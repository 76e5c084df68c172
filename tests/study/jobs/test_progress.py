"""The line about a study's Slurm jobs."""

from datetime import datetime
from types import SimpleNamespace

import pytest

from study.grid import Grid
from study.jobs.progress import Progress, time_to_end
from study.jobs.slurm_jobs import Listing, QueuedJob


def listing(*jobs: QueuedJob) -> Listing:
    return Listing({(None, job.job_id): job for job in jobs})


def test_the_line_says_what_runs_and_waits_and_until_when(grid: Grid) -> None:
    progress = Progress(grid)
    progress.expect({cell.name: 60.0 for cell in grid[:3]})
    for number, cell in enumerate(grid[:2], start=1):
        progress.submitted(cell, str(number))
    progress.polled(
        listing(
            QueuedJob("1", "RUNNING", "None", "", ""),
            QueuedJob("2", "PENDING", "Priority", "", ""),
            QueuedJob("3", "RUNNING", "None", "another study's", ""),
        )
    )
    line = progress.line(not_submitted=1)
    cell = grid[0]
    assert f"1 running ({cell.cluster}/{cell.model}/{cell.gpus}); 1 waiting (1 Priority)" in line
    assert "; 1 not yet submitted; 0 of 3 finished; done at about " in line


def test_the_end_allows_for_the_time_that_runs_have_run(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two hours one after the other, half an hour is over."""
    clock = SimpleNamespace(monotonic=lambda: 50.0, time=lambda: 1e9)
    monkeypatch.setattr("study.jobs.progress.time", clock)
    progress = Progress(grid)
    progress.expect({cell.name: 3600.0 for cell in grid[:2]})
    progress.submitted(grid[0], "1")
    progress.polled(listing(QueuedJob("1", "RUNNING", "None", "", "")))
    clock.monotonic = lambda: 50.0 + 1800
    progress.polled(listing(QueuedJob("1", "RUNNING", "None", "", "")))
    end = datetime.fromtimestamp(1e9 + 5400)
    assert f"; done at about {end:%H:%M on %a %d %b}." in progress.line(not_submitted=1)


@pytest.mark.parametrize(
    ("times", "share"),
    [
        ((60.0, 120.0, 60.0), " (25% of their time)"),
        ((60.0, None, 60.0), ""),  # of a run to come, it is not known
        ((0.0, 120.0, 60.0), ""),
    ],
)
def test_the_share_of_the_time_that_is_done(
    grid: Grid, times: tuple[float | None, ...], share: str
) -> None:
    progress = Progress(grid)
    progress.expect(dict(zip((cell.name for cell in grid), times, strict=False)))
    progress.finished(grid[0])
    assert f"; 1 of 3 finished{share}." in progress.line(not_submitted=0)


def test_the_end_is_that_of_the_longest_run_or_of_all_of_them_side_by_side() -> None:
    assert time_to_end([50.0, 10.0, 10.0], running=2) == 50.0
    assert time_to_end([30.0, 30.0, 30.0, 30.0], running=2) == 60.0
    assert time_to_end([], running=1) == 0.0


def test_jobs_that_are_suspended_or_held_are_told(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(grid)
    progress.submitted(grid[0], "1")
    progress.submitted(grid[1], "2")
    progress.submitted(grid[2], "3")
    # As Slurm 22.05 shows them.
    progress.submitted(grid[3], "4")
    progress.submitted(grid[4], "5")
    queued = listing(
        QueuedJob("1", "SUSPENDED", "None", "", ""),
        QueuedJob("2", "PENDING", "JobHeldUser", "", ""),
        QueuedJob("3", "REQUEUE_HOLD", "job requeued in held state", "", ""),
        QueuedJob("4", "RESV_DEL_HOLD", "Reservation ours was deleted", "", ""),
        QueuedJob("5", "PENDING", "MaxMemPerLimit", "", ""),
    )
    progress.polled(queued)
    progress.polled(queued)
    assert capsys.readouterr().err.splitlines() == [
        f"Slurm job 2 ({grid[1].name}) is held: JobHeldUser. Release it (scontrol release 2).",
        f"Slurm job 3 ({grid[2].name}) is held: job requeued in held state. Release it "
        "(scontrol release 3).",
        f"Slurm job 4 ({grid[3].name}) will never start: Reservation ours was deleted. Cancel it "
        "(scancel 4), change its request and start Snakemake again.",
        f"Slurm job 5 ({grid[4].name}) will never start: MaxMemPerLimit. Cancel it (scancel 5), "
        "change its request and start Snakemake again.",
    ]
    told = (
        "0 running; 1 suspended; 4 waiting (1 JobHeldUser, 1 job requeued in held state, "
        "1 Reservation ours was deleted, 1 MaxMemPerLimit); "
    )
    assert told in progress.line(not_submitted=0)


def test_jobs_of_two_slurm_clusters_may_have_the_same_id(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(grid)
    progress.submitted(grid[0], "7")
    progress.submitted(grid[1], "7@beta")
    queued = {None: "RUNNING", "beta": "PENDING", "gamma": "PENDING"}
    jobs = {
        (cluster, "7"): QueuedJob("7", state, "JobHeldUser", "", "", cluster=cluster)
        for cluster, state in queued.items()
    }
    progress.polled(Listing(jobs))
    # Without the cluster's name, Slurm would take the default one's.
    told = f"Slurm job 7@beta ({grid[1].name}) is held: JobHeldUser. "
    assert capsys.readouterr().err == f"{told}Release it (scontrol -M beta release 7).\n"
    assert "1 running" in progress.line(not_submitted=0)
    assert "1 waiting (1 JobHeldUser)" in progress.line(not_submitted=0)


def test_the_line_names_the_slurm_cluster_that_does_not_answer(grid: Grid) -> None:
    progress = Progress(grid)
    progress.submitted(grid[0], "1")
    progress.polled(Listing({}, frozenset({"nowhere"})))
    assert "; squeue does not answer (cluster nowhere)." in progress.line(not_submitted=0)
