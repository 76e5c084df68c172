"""The live view: each cell's state from its files and the queue, also while they change."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study.__main__ import main
from study.grid import Grid
from study.jobs.slurm_jobs import Listing, QueuedJob
from study.jobs.submitted import Submission, log_folder
from study.show import watch as watch_module
from study.show.watch import Watch
from study.show.watch_text import cut, to_text
from tests.study.conftest import MakeGrid, write_run
from tests.study.show.watched import RUNNING, first, look, write_part

ON_SLURM = {"grid": [{"cluster": "fast", "model": ["tiny", "wide"], "gpus": [8, 16]}]}


def test_a_study_that_has_not_begun(make_grid: MakeGrid) -> None:
    grid = make_grid()
    seen = Watch(grid).look()
    assert [item.state for item in seen] == ["to run"] * 4
    assert Watch(grid).summary(seen) == "test: 4 to run"


def test_a_run_that_cannot_be_read_is_told(make_grid: MakeGrid) -> None:
    grid = make_grid()
    summary = Path(grid[0].folder, "run.json")
    summary.mkdir(parents=True)  # also root cannot read it
    write_run(grid[1], status=7)
    told = [(item.state, item.note) for item in Watch(grid).look()[:2]]
    assert told[0] == ("to run", f"{summary}: cannot be read: Is a directory")
    assert told[1][0] == "to run"
    assert told[1][1].startswith(f"{grid[1].folder}/run.json: status: found 7; expected ")


def test_a_running_run_by_hand(make_grid: MakeGrid) -> None:
    """Records at steps 1, 10, 20 of 40, at 0.1 s a step: 20 steps are left."""
    grid = make_grid({"run": {"logging": {"freq": 10}}})
    write_part(grid[0], share=0.6)
    item = first(grid)
    assert (item.state, item.note, item.attempt) == ("running", "", 1)
    assert item.progress is not None
    assert item.progress.step == 20
    assert item.left_s == pytest.approx(2.0)
    assert item.progress.tokens_per_s_per_gpu == pytest.approx(8 * 64 / 0.1)
    assert "20 of 40" in to_text([item], 5)


def test_what_goes_on_starts_up_again(make_grid: MakeGrid) -> None:
    """20 steps at 0.1 s are left, after another start-up of 4 s."""
    grid = make_grid({"run": {"logging": {"freq": 10}}})
    write_part(grid[0], share=0.6, status="preempted")
    assert first(grid).left_s == pytest.approx(4.0 + 2.0)


def test_the_end_of_the_study(make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run is done and took 8 s, so that another of its kind is known; one runs at a time."""
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": 1, "seed": [1, 2, 3]}],
                      "run": {"logging": {"freq": 10}}})  # fmt: skip
    write_part(grid[1], share=0.6)
    view = Watch(grid)
    monkeypatch.setattr(view, "_whole_s", lambda cell: 8.0)
    write_run(grid[0])
    assert view.summary(view.look()).startswith("test: 1 done, 1 to run, 1 running, done at about ")
    assert view._left_s(view.look()) == pytest.approx(2.0 + 8.0)


@pytest.mark.parametrize(
    ("changes", "age_s", "state", "note"),
    [
        ({}, 0, "running", ""),
        ({}, 3600, "failed", "no record for 1 h: killed, or it hangs"),
        # later than ten records of 9 steps would take, and than two minutes
        ({"step_s": 6.0}, 500, "running", ""),
        ({"step_s": 6.0}, 600, "failed", "no record for 10 min: killed, or it hangs"),
        ({"step_s": 0.1}, 90, "running", ""),
        ({"step_s": 0.1}, 150, "failed", "no record for 2.5 min: killed, or it hangs"),
        ({"status": "preempted"}, 0, "to run", "preempted; goes on"),
        ({"status": "failed"}, 0, "failed", "rank 0 ran out of memory"),
        ({"status": "completed", "outcome": "trained"}, 3600, "done", ""),
        ({"status": "completed", "outcome": "diverged"}, 0, "diverged", "at step 20"),
        ({"fingerprint": "f" * 16}, 0, "to run", ""),
    ],
)
def test_states(
    make_grid: MakeGrid, changes: dict[str, Any], age_s: float, state: str, note: str
) -> None:
    grid = make_grid({"run": {"logging": {"freq": 10}}})
    write_part(grid[0], age_s=age_s, **changes)
    failure = {"retry": False, "message": "rank 0 ran out of memory\nmore"}
    Path(grid[0].folder, "failure.json").write_text(json.dumps(failure))
    item = first(grid)
    assert (item.state, item.note) == (state, note)


@pytest.mark.parametrize(
    ("age_s", "state", "note"),
    [(840, "running", "starts"), (960, "failed", "no record for 16 min: killed, or it hangs")],
)
def test_a_run_has_a_quarter_of_an_hour_until_its_first_record(
    make_grid: MakeGrid, age_s: float, state: str, note: str
) -> None:
    grid = make_grid()
    write_part(grid[0], share=0.0, age_s=age_s)
    item = first(grid)
    assert (item.state, item.note) == (state, note)


def test_a_refused_run_names_its_first_problem_on_one_line(make_grid: MakeGrid) -> None:
    grid = make_grid()
    write_part(grid[0], status="failed")
    message = "run.yaml: 2 problems\n  steps: found 0; expected more\n  optim.lr: missing"
    Path(grid[0].folder, "failure.json").write_text(
        json.dumps({"retry": False, "message": message})
    )
    item = first(grid)
    assert item.note == "run.yaml: steps: found 0; expected more"
    text = to_text([item], 5)
    assert max(map(len, cut(text, 60).splitlines())) == 60
    assert cut(text, 60).splitlines()[-1].endswith("...")
    assert cut(text, 500) == text


def test_before_the_first_record_a_run_may_compile_for_long(make_grid: MakeGrid) -> None:
    grid = make_grid()
    write_part(grid[0], share=0, age_s=600)
    assert (first(grid).state, first(grid).note) == ("running", "starts")
    write_part(grid[0], share=0, age_s=1200)
    assert first(grid).state == "failed"


def queue(monkeypatch: pytest.MonkeyPatch, grid: Grid, jobs: dict[int, QueuedJob]) -> list[int]:
    """Have the record of submissions and squeue say that cells have jobs; return the calls."""
    calls = []
    logs = log_folder(grid)
    logs.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, job in jobs.items():
        comment = "rule_train_wildcards_" + "_".join(map(str, grid[index].labels.values()))
        made = Submission(job.job_id, None, job.name, comment, "digest", "log")
        lines.append(json.dumps(asdict(made)))
    (logs / "submitted.jsonl").write_text("\n".join([*lines, '{"job_id": "9", "clu']))

    def list_jobs(clusters: Any, users: Any) -> Listing:
        calls.append(1)
        return Listing({(None, job.job_id): job for job in jobs.values()})

    monkeypatch.setattr(watch_module, "list_jobs", list_jobs)
    return calls


def test_jobs_in_the_queue(make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = make_grid(ON_SLURM)
    write_part(grid[0], age_s=3600)
    write_part(grid[2], status="failed")
    write_part(grid[3], status="preempted")
    calls = queue(
        monkeypatch,
        grid,
        {
            0: QueuedJob("1", "RUNNING", "None", "test/tiny/8", ""),
            1: QueuedJob("2", "PENDING", "Priority", "test/tiny/16", ""),
            2: QueuedJob("3", "RUNNING", "None", "test/wide/8", ""),
            3: QueuedJob("4", "PENDING", "PartitionTimeLimit", "test/wide/16", ""),
        },
    )
    seen = look(grid)
    assert len(calls) == 1
    assert [(item.state, item.note) for item in seen.values()] == [
        ("running", "silent for 1 h"),
        ("waiting", "Priority, Slurm job 2"),
        ("running", "attempt 2; starts"),
        ("waiting", "PartitionTimeLimit: it will never start, Slurm job 4; attempt 2"),
    ]
    # One that waits again goes on from what it has done.
    again = list(seen.values())[3]
    assert again.progress is not None
    assert again.progress.step > 0


@pytest.mark.parametrize(
    ("state", "reason", "shown"),
    [
        ("SUSPENDED", "None", ("suspended", "Slurm job 1")),
        ("PENDING", "JobHeldUser", ("waiting", "JobHeldUser: it is held, Slurm job 1; attempt 2")),
        (
            "REQUEUE_HOLD",
            "job requeued in held state",
            ("waiting", "job requeued in held state: it is held, Slurm job 1; attempt 2"),
        ),
    ],
)
def test_a_job_that_is_suspended_or_held_does_not_run(
    make_grid: MakeGrid,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    reason: str,
    shown: tuple[str, str],
) -> None:
    grid = make_grid(ON_SLURM)
    write_part(grid[0], status="running")
    queue(monkeypatch, grid, {0: QueuedJob("1", state, reason, "test/tiny/8", "")})
    view = Watch(grid)
    seen = view.look()[0]
    assert (seen.state, seen.note) == shown
    assert f"1 {shown[0]}" in view.summary(view.look())
    queue(monkeypatch, grid, {1: QueuedJob("2", state, reason, "test/tiny/16", "")})
    assert view.look()[1].state == shown[0]  # before its run has written anything


def test_slurm_that_does_not_answer(make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = make_grid(ON_SLURM)
    queue(monkeypatch, grid, {0: QueuedJob("1", "RUNNING", "None", "test/tiny/8", "")})
    monkeypatch.setattr(
        watch_module, "list_jobs", lambda clusters, users: Listing({}, frozenset([None]))
    )
    view = Watch(grid)
    assert view.summary(view.look()) == "test: 4 to run, squeue does not answer"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 3000), name=st.sampled_from(["metrics.jsonl", "run.json"]))
def test_files_that_are_cut_off_anywhere(make_grid: MakeGrid, cut: int, name: str) -> None:
    grid = make_grid()
    write_run(grid[0], **RUNNING)
    path = Path(grid[0].folder, name)
    path.write_bytes(path.read_bytes()[:cut])
    seen = Watch(grid).look()
    assert seen[0].state in ("running", "to run")
    to_text(seen, 10)


def test_the_command_looks_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["watch", "--study", "config/studies/h200.yaml", "--once"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("h200: ")
