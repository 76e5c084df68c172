"""The line about a study's Slurm jobs."""

from study.grid import Grid
from study.jobs.progress import Progress, time_to_end
from study.jobs.slurm_commands import QueuedJob


def test_the_line_says_what_runs_and_waits_and_until_when(grid: Grid) -> None:
    progress = Progress(grid)
    progress.expect({cell.name: 60.0 for cell in grid[:3]})
    for number, cell in enumerate(grid[:2], start=1):
        progress.submitted(cell, str(number))
    progress.polled(
        {
            (None, "1"): QueuedJob("1", "RUNNING", "None", "", ""),
            (None, "2"): QueuedJob("2", "PENDING", "Priority", "", ""),
            (None, "3"): QueuedJob("3", "RUNNING", "None", "another study's", ""),
        }
    )
    line = progress.line(not_submitted=1)
    cell = grid[0]
    assert f"1 running ({cell.cluster}/{cell.model}/{cell.gpus}); 1 waiting (1 Priority)" in line
    assert "; 1 not yet submitted; 0 of 3 finished; done at about " in line


def test_the_end_is_that_of_the_longest_run_or_of_all_of_them_side_by_side() -> None:
    assert time_to_end([50.0, 10.0, 10.0], running=2) == 50.0
    assert time_to_end([30.0, 30.0, 30.0, 30.0], running=2) == 60.0
    assert time_to_end([], running=1) == 0.0
