"""The line about a study's Slurm jobs."""

from datetime import datetime
from types import SimpleNamespace

import pytest

from study.grid import Grid
from study.jobs.progress import Progress, later_day, time_to_end
from study.jobs.slurm_jobs import Listing, QueuedJob
from tests.study.conftest import MakeGrid, write_run


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


def test_a_run_that_is_complete_no_longer_runs(grid: Grid) -> None:
    """Also until Slurm is asked again."""
    progress = Progress(grid)
    progress.expect({cell.name: 60.0 for cell in grid[:2]})
    for number, cell in enumerate(grid[:2], start=1):
        progress.submitted(cell, str(number))
    progress.polled(listing(*(QueuedJob(str(n), "RUNNING", "None", "", "") for n in (1, 2))))
    progress.finished(grid[0])
    line = progress.line(not_submitted=0)
    assert "1 running (" in line and "1 of 2 finished" in line
    progress.finished(grid[1])
    assert "0 running; 2 of 2 finished" in progress.line(not_submitted=0)


def test_reasons_are_short_and_seeds_are_told_apart(make_grid: MakeGrid) -> None:
    block = {"cluster": "here", "model": "tiny", "gpus": 1, "seed": [1, 2, 3, 4]}
    grid = make_grid({"grid": [block]})
    progress = Progress(grid)
    for number, cell in enumerate(grid):
        progress.submitted(cell, str(number))
    down = "ReqNodeNotAvail, UnavailableNodes:miso[1-2], 1 Nodes required for job are DOWN"
    progress.polled(
        listing(
            QueuedJob("0", "RUNNING", "None", "", ""),
            QueuedJob("1", "PENDING", down, "", ""),
            QueuedJob("2", "PENDING", "None", "", ""),
        )
    )
    line = progress.line(not_submitted=0)
    assert "1 running (here/tiny/1/seed-1); 2 waiting (1 ReqNodeNotAvail); " in line
    progress.polled(listing(QueuedJob("2", "PENDING", "None", "", "")))
    assert "; 1 waiting; " in progress.line(not_submitted=0)


def test_jobs_may_be_submitted_while_the_line_is_made(grid: Grid) -> None:
    """By another thread. An error would end the thread that polls, and Snakemake with it."""
    progress = Progress(grid)

    class Cell(SimpleNamespace):
        @property
        def seed(self) -> int:
            progress.submitted(grid[1], str(len(progress._cells)))
            return 1

    labels = dict(cluster="here", model="tiny", gpus=1, variant="base", name="a", folder="none")
    for number in range(3):
        progress.submitted(Cell(**labels), str(number))  # type: ignore[arg-type]
    progress.polled(listing(QueuedJob("0", "RUNNING", "None", "", "")))
    assert "1 running (here/tiny/1" in progress.line(not_submitted=0)


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


def test_a_run_that_takes_longer_than_estimated_needs_no_time(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has run for two hours of one; the other two need an hour each, and one of them is done."""
    clock = SimpleNamespace(monotonic=lambda: 50.0, time=lambda: 1e9)
    monkeypatch.setattr("study.jobs.progress.time", clock)
    progress = Progress(grid)
    progress.expect({cell.name: 3600.0 for cell in grid[:3]})
    progress.submitted(grid[0], "1")
    progress.polled(listing(QueuedJob("1", "RUNNING", "None", "", "")))
    progress.finished(grid[1])
    clock.monotonic = lambda: 50.0 + 7200
    assert f"; done at about {datetime.fromtimestamp(1e9 + 3600):%H:%M} on" in progress.line(1)


def test_the_end_is_not_known_while_nothing_runs_or_without_the_time_of_a_run(grid: Grid) -> None:
    progress = Progress(grid)
    progress.expect({cell.name: 60.0 for cell in grid[:2]})
    progress.submitted(grid[0], "1")
    progress.polled(listing(QueuedJob("1", "PENDING", "Priority", "", "")))
    assert "done at" not in progress.line(not_submitted=1)
    running = listing(QueuedJob("1", "RUNNING", "None", "", ""))
    progress.polled(running)
    assert "done at" in progress.line(not_submitted=1)
    progress.expect({grid[0].name: 60.0, grid[1].name: None})
    assert "done at" not in progress.line(not_submitted=1)


def test_three_running_cells_are_named_with_their_variants_and_steps(make_grid: MakeGrid) -> None:
    hot = {"hot": {"optim": {"lr": 0.5}}}
    block = {"cluster": "here", "model": "tiny", "gpus": [1, 2, 4], "variant": ["base", "hot"]}
    grid = make_grid({"variants": hot, "grid": [block]})
    write_run(grid[1], status="running", outcome=None, steps_done=20)
    progress = Progress(grid)
    for number, cell in enumerate(grid[:5]):
        progress.submitted(cell, str(number))
    progress.submitted(grid[5], "5")
    progress.replaced("5")
    progress.polled(listing(*(QueuedJob(str(n), "RUNNING", "None", "", "") for n in range(6))))
    named = "here/tiny/1, here/tiny/1/hot at step 20 of 40, here/tiny/2, 2 more"
    assert f"Slurm: 5 running ({named}); " in progress.line(not_submitted=0)


def test_the_line_is_shown_after_20_seconds_and_then_every_minute(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 0.0, time=lambda: 1e9)
    monkeypatch.setattr("study.jobs.progress.time", clock)
    progress, idle = Progress(grid), Progress(grid)
    progress.submitted(grid[0], "1")
    shown = []
    for second in range(200):
        clock.monotonic = lambda second=second: float(second)
        progress.show(not_submitted=0)
        idle.show(not_submitted=0)
        shown += [second] * capsys.readouterr().err.count("] Slurm: ")
    assert shown == [20, 80, 140]


def test_the_day_is_told_unless_it_is_today() -> None:
    now = datetime.now()
    assert later_day(now) == ""
    assert later_day(datetime(2020, 2, 3, 4)) == " on Mon 03 Feb"


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
