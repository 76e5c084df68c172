"""Jobs of Slurm that end, with a squeue that answers as it is told.

tests/slurm tests the same on Slurm's daemons.
"""

import json
from pathlib import Path

import pytest
import yaml

from study.grid import Grid
from study.jobs import slurm_executor, slurm_queue
from study.jobs.job_script import ENDED
from study.jobs.slurm_jobs import Listing
from study.jobs.slurm_queue import SlurmQueue
from study.jobs.submitted import Submission
from study.jobs.verdict import GONE, find_shortage
from study.load import load_study
from tests.study.jobs.stand_ins import (
    Polled,
    attempt,
    check,
    complete,
    job_of,
    poll,
    queued_job,
    retried,
    watched,
)
from trainer.folder.run_file import find_summary


@pytest.fixture
def on_slurm(tmp_path: Path) -> Grid:
    """A grid on a Slurm partition that signals its runs 60 s before their time limit."""
    study = yaml.safe_load(Path("config/studies/lingua.yaml").read_text())
    return Grid(load_study({**study, "results_dir": str(tmp_path)}))


def test_jobs_are_not_forgotten_while_slurm_does_not_answer(executor: Polled, grid: Grid) -> None:
    info, folder = watched(executor, grid)
    assert all(poll(executor, info, None) for _ in range(5))
    complete(grid, folder)
    assert not poll(executor, info, "COMPLETED")
    assert executor.ended == [info]


@pytest.mark.parametrize("known", ["", "COMPLETED"])
def test_a_job_that_squeue_no_longer_lists_is_resolved_in_two_polls(
    executor: Polled, grid: Grid, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    monkeypatch.setattr(slurm_queue, "find_recorded_state", lambda job_id, cluster: known)
    info, folder = watched(executor, grid)
    complete(grid, folder)
    assert poll(executor, info, GONE)
    assert not poll(executor, info, GONE)
    assert executor.ended == [info]


def test_one_that_was_cancelled_is_told_as_such(
    executor: Polled, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_queue, "find_recorded_state", lambda job_id, cluster: "CANCELLED")
    info, _ = watched(executor, grid)
    poll(executor, info, GONE)
    assert not poll(executor, info, GONE)
    assert "It was cancelled and is not retried" in str(executor.errors[0])
    assert not retried(info.job)


def test_one_without_a_trace_is_a_failure_that_is_retried(executor: Polled, grid: Grid) -> None:
    info, _ = watched(executor, grid)
    poll(executor, info, GONE)
    assert not poll(executor, info, GONE)
    assert "Slurm no longer lists it" in str(executor.errors[0])
    assert retried(info.job)


def test_a_job_is_noticed_by_its_note_without_asking_slurm(executor: Polled, grid: Grid) -> None:
    info, folder = watched(executor, grid)
    complete(grid, folder)
    (executor.slurm_logdir / ENDED / "7").write_text("0\n")
    executor._queue._next_poll = float("inf")

    assert check(executor, [info]) == []
    assert executor.ended == [info]


@pytest.mark.parametrize("state", ["REQUEUE_HOLD", "STAGE_OUT", "EXPEDITING"])
def test_a_job_is_active_in_all_states_but_ends(executor: Polled, grid: Grid, state: str) -> None:
    """Slurm 25.11 has added EXPEDITING; https://slurm.schedmd.com/job_state_codes.html"""
    info, _ = watched(executor, grid)
    assert all(poll(executor, info, state) for _ in range(3))
    assert executor.errors == []


def test_files_that_appear_late_are_waited_for(
    executor: Polled, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, where a folder's attributes are kept for up to a minute (acdirmax in nfs(5))."""
    info, folder = watched(executor, grid)
    now = [1000.0]
    monkeypatch.setattr(slurm_executor.time, "monotonic", lambda: now[0])
    (executor.slurm_logdir / ENDED / "7").write_text("0\n")
    assert poll(executor, info, "COMPLETED")
    now[0] += 59
    assert poll(executor, info, "COMPLETED")
    complete(grid, folder)
    assert not poll(executor, info, "COMPLETED")
    assert (executor.ended, executor.errors) == ([info], [])


def test_what_has_not_appeared_in_that_time_is_missing(
    executor: Polled, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, _ = watched(executor, grid)
    executor.workflow.execution_settings.latency_wait = 0
    assert not poll(executor, info, "COMPLETED")
    assert "It exited with code 0, but its outputs are not complete." in str(executor.errors[0])
    assert retried(info.job)


def test_a_moment_in_the_state_of_a_requeue_is_not_the_end(executor: Polled, grid: Grid) -> None:
    info, _ = watched(executor, grid)
    for state in ("RUNNING", "PREEMPTED", "PENDING", "NODE_FAIL", "PENDING", "PREEMPTED"):
        assert poll(executor, info, state)
    assert not poll(executor, info, "PREEMPTED")
    (request,) = executor.again
    assert request.reason == "preempted"
    assert executor.errors == []


@pytest.mark.parametrize(
    ("used_s", "stopped_by", "more"),
    [
        (1745.0, "time limit", 1),
        # Preempted with a time of grace, in which the run saves and ends its job itself.
        (95.0, "stopped", 0),
    ],
)
def test_a_run_that_saved_is_submitted_again_and_is_no_failure(
    on_slurm: Grid, monkeypatch: pytest.MonkeyPatch, used_s: float, stopped_by: str, more: int
) -> None:
    monkeypatch.setattr(slurm_queue, "list_jobs", None)
    grid, executor = on_slurm, Polled(on_slurm)
    info, folder = watched(executor, grid)
    summary = {"status": "preempted", "fingerprint": "x", "params": 1, "steps_done": 12}
    (folder / "run.json").write_text(json.dumps(summary | {"attempts": [attempt("preempted")]}))
    before = find_shortage(grid[0].name).time
    assert not poll(executor, info, "FAILED", used_s=used_s, limit_s=1800.0)
    (request,) = executor.again
    assert request.reason == f"{stopped_by}, saved at step 12"
    assert info.job.attempt == 1
    assert executor.errors == []
    assert find_shortage(grid[0].name).time - before == more


def test_a_job_that_fails_before_its_run_starts_has_not_saved(executor: Polled, grid: Grid) -> None:
    """run.json is still that of an attempt before, which had saved."""
    info, folder = watched(executor, grid)
    summary = {"status": "preempted", "fingerprint": "x", "params": 1, "steps_done": 12}
    (folder / "run.json").write_text(json.dumps(summary | {"attempts": [attempt("preempted")]}))
    info.before = find_summary(folder)
    before = find_shortage(grid[0].name)
    assert not poll(executor, info, "FAILED")
    assert executor.errors == ["Slurm job 7 ended: FAILED."]
    assert find_shortage(grid[0].name) == before
    assert retried(info.job)


def test_a_run_that_saved_is_continued_though_an_edit_had_set_a_longer_one_aside(
    executor: Polled, grid: Grid
) -> None:
    summary = {"status": "preempted", "fingerprint": "x", "params": 1}
    earlier = summary | {"steps_done": 900, "attempts": [attempt("preempted")] * 3}
    again = attempt("preempted") | {"start": "2026-11-27"}
    job, folder = job_of(grid)
    (folder / "run.json").write_text(json.dumps(earlier))
    log = str(executor.slurm_logdir / "7.log")
    executor._watch(job.job, Submission("7", None, "name", "comment", "digest", log))
    (folder / "run.json").write_text(json.dumps(summary | {"steps_done": 12, "attempts": [again]}))
    assert not poll(executor, executor._queue.jobs["7"], "FAILED")
    assert executor.errors == []
    assert [request.reason for request in executor.again] == ["stopped, saved at step 12"]


@pytest.mark.parametrize("state", ["CANCELLED", "TIMEOUT", "COMPLETED"])
@pytest.mark.parametrize("kept", [False, True])
def test_a_job_that_has_not_trained_again_does_not_count_as_done(
    executor: Polled, grid: Grid, state: str, kept: bool
) -> None:
    """As of a complete run whose text has changed. If the trainer itself ends with code 0, it has
    compared the text."""
    job, folder = job_of(grid)
    complete(grid, folder)
    log = str(executor.slurm_logdir / "7.log")
    executor._watch(job.job, Submission("7", None, "name", "comment", "digest", log), kept=kept)
    info = executor._queue.jobs["7"]
    assert not poll(executor, info, state)
    assert (executor.ended == [info]) == (state == "COMPLETED")
    assert len(executor.errors) == (state != "COMPLETED")


def test_a_job_that_has_trained_again_is_done_however_it_ended(
    executor: Polled, grid: Grid
) -> None:
    job, folder = job_of(grid)
    complete(grid, folder)
    log = str(executor.slurm_logdir / "7.log")
    executor._watch(job.job, Submission("7", None, "name", "comment", "digest", log))
    info = executor._queue.jobs["7"]
    again = json.loads((folder / "run.json").read_text())
    again["attempts"][0]["start"] = "2026-11-27"
    (folder / "run.json").write_text(json.dumps(again))
    assert not poll(executor, info, "TIMEOUT")
    assert executor.ended == [info]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("97:0", "Slurm job 7 ended: FAILED.\nIts node does not see the folder /here, "),
        ("0:53", "Slurm job 7 ended: FAILED.\nIts node cannot write to "),
    ],
)
def test_a_node_that_does_not_see_the_files_is_told_and_not_retried(
    executor: Polled, grid: Grid, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    monkeypatch.setattr(slurm_executor, "find_exit_code", lambda job_id, cluster: code)
    info, _ = watched(executor, grid)
    assert not poll(executor, info, "FAILED")
    assert str(executor.errors[0]).startswith(words)
    assert not retried(info.job)


def test_a_deleted_input_is_not_blamed_on_the_node(
    executor: Polled, grid: Grid, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(slurm_executor, "find_exit_code", lambda job_id, cluster: "97:0")
    corpus = tmp_path / "corpus.json"
    for there, words in ((True, "Its node does not see"), (False, f"Its input {corpus} was dele")):
        corpus.touch() if there else corpus.unlink()
        info, _ = watched(executor, grid)
        Path(info.made.log).write_text(f"missing input: {corpus}\n")
        assert not poll(executor, info, "FAILED")
        assert str(executor.errors[-1]).splitlines()[1].startswith(words)
        assert not retried(info.job)


def test_what_was_printed_before_the_run_began_is_shown(executor: Polled, grid: Grid) -> None:
    """Snakemake shows the run's own log, which is empty."""
    info, folder = watched(executor, grid)
    attempt_log = folder / "attempt.log"
    attempt_log.touch()
    info.job.log = [str(attempt_log)]
    log = Path(info.made.log)
    log.write_text("line\n" * 100 + "/var/script: line 12: module: command not found\n")
    assert not poll(executor, info, "FAILED")
    said = str(executor.errors[0]).splitlines()
    assert said[:2] == ["Slurm job 7 ended: FAILED.", f"The end of {log}:"]
    assert said[-1] == "/var/script: line 12: module: command not found"
    assert len(said) == 2 + 20
    executor._queue.add(info)
    # Snakemake shows that log, which is a part of this one, but not what Slurm writes.
    attempt_log.write_text("line\n")
    with log.open("a") as file:
        file.write("slurmstepd: error: *** JOB 7 ON n1 CANCELLED DUE TO NODE FAILURE ***\n")
    assert not poll(executor, info, "FAILED")
    assert str(executor.errors[1]).splitlines() == [
        "Slurm job 7 ended: FAILED.",
        f"Slurm's log: {log}",
        "slurmstepd: error: *** JOB 7 ON n1 CANCELLED DUE TO NODE FAILURE ***",
    ]
    assert executor.logs_shown == []


def test_errors_in_a_file_of_their_own_are_read_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the shell says of a command that does not exist, and Slurm of the memory."""
    monkeypatch.setattr(slurm_queue, "list_jobs", None)
    monkeypatch.setattr(slurm_executor, "find_exit_code", lambda job_id, cluster: "127:0")
    study = yaml.safe_load(Path("config/studies/lingua.yaml").read_text())
    clusters = yaml.safe_load(Path("config/clusters.yaml").read_text())
    for settings in clusters.values():
        if "slurm" in settings:
            settings["slurm"]["error"] = str(tmp_path / "err-%j.txt")
    grid = Grid(load_study({**study, "clusters": clusters, "results_dir": str(tmp_path)}))
    executor = Polled(grid)
    info, _ = watched(executor, grid)
    errors = tmp_path / "err-7.txt"
    errors.write_text("/var/script: line 12: module: command not found\n")
    assert not poll(executor, info, "FAILED")
    assert str(executor.errors[0]).splitlines() == [
        "Slurm job 7 ended: FAILED.",
        f"The end of {errors}:",
        "/var/script: line 12: module: command not found",
    ]
    errors.write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch.\n")
    executor._queue.add(info)
    assert not poll(executor, info, "FAILED")
    assert "It exceeded its memory; a retry requests more." in str(executor.errors[1])


def test_a_job_that_only_the_accounting_and_the_controller_list_is_active(
    executor: Polled,
    grid: Grid,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(slurm_queue, "find_recorded_state", lambda job_id, cluster: "RUNNING")
    forgotten: list[bool] = []
    monkeypatch.setattr(slurm_queue, "is_forgotten", lambda job_id, cluster: bool(forgotten))
    info, _ = watched(executor, grid)
    assert all(poll(executor, info, GONE) for _ in range(4))
    assert executor.errors == []
    told = "Slurm job 7: not listed by squeue, but RUNNING by the accounting.\n"
    assert capsys.readouterr().err == told
    # The accounting has missed its end.
    forgotten.append(True)
    assert not poll(executor, info, GONE)
    assert "Slurm no longer lists it" in str(executor.errors[0])


def test_jobs_on_a_slurm_cluster_that_answers_are_settled(executor: Polled, grid: Grid) -> None:
    info, _ = watched(executor, grid)
    there, _ = watched(executor, grid, "8", cluster="nowhere", number=1)
    answer = Listing({(None, "7"): queued_job("FAILED")}, frozenset(["nowhere"]))
    slurm_queue.list_jobs = lambda clusters, users: answer  # type: ignore[assignment]
    executor._queue._next_poll = 0.0

    assert check(executor, [info, there]) == [there]
    assert executor.errors == ["Slurm job 7 ended: FAILED."]


def test_jobs_of_two_slurm_clusters_with_the_same_id_end_on_their_own(
    executor: Polled, grid: Grid
) -> None:
    here, folder = watched(executor, grid)
    there, other = watched(executor, grid, cluster="beta", number=1)
    complete(grid, folder)
    complete(grid, other, number=1)

    executor._queue._next_poll = float("inf")
    for label, expected in (("7@beta", there), ("7", here)):
        (executor.slurm_logdir / ENDED / label).write_text("0\n")
        active = list(executor._queue.jobs.values())
        assert check(executor, active) == [info for info in active if info is not expected]
        assert executor.ended.pop() is expected
    assert executor._queue.jobs == {}


def test_a_note_that_was_there_before_is_that_of_another_job(executor: Polled, grid: Grid) -> None:
    """Slurm's ids begin again, for example after its state was lost; nobody saw that job end."""
    (executor.slurm_logdir / ENDED / "7").write_text("0\n")
    executor._queue = SlurmQueue(executor.slurm_logdir, first_poll_s=20.0)
    info, folder = watched(executor, grid)
    complete(grid, folder)
    assert poll(executor, info, "RUNNING")
    assert executor.ended == []
    (executor.slurm_logdir / ENDED / "7").write_text("0\n")
    assert not poll(executor, info, "RUNNING")
    assert executor.ended == [info]


def test_ctrl_c_cancels_our_jobs_on_each_slurm_cluster(
    executor: Polled,
    grid: Grid,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = [("7", None, None), ("9", "other", None), ("8", "other", None), ("10", "other", "ada")]
    jobs = [watched(executor, grid, *one)[0] for one in made]
    cancelled: dict[str | None, list[str]] = {}

    def cancel_jobs(ids: list[str], cluster: str | None) -> str:
        cancelled[cluster] = ids
        return "no answer" if cluster else ""

    monkeypatch.setattr(slurm_executor, "cancel_jobs", cancel_jobs)
    executor.cancel_jobs(jobs)
    assert cancelled == {None: ["7"], "other": ["8", "9"]}
    told = "Slurm jobs 8, 9 on Slurm cluster other may still run: scancel: no answer\n"
    assert capsys.readouterr().err == told


def test_polls_are_at_most_a_minute_apart(executor: Polled, grid: Grid) -> None:
    info, _ = watched(executor, grid)
    for _ in range(20):
        poll(executor, info, "RUNNING")
    assert executor._queue.poll_s == 60
