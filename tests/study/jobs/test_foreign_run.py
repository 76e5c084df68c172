"""Another trainer's command under the wrapper: its run's folder, stops, failures and retries.

The trainers are shell scripts, which print or write their log as a trainer does.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study.jobs.foreign_run import main
from study.measure.run_files import read_run
from study.measure.summaries import read_failure
from study.measure.throughput import is_steady
from trainer import gpu_state
from trainer.records import EXIT_PREEMPTED

REGEX = {
    "format": "regex",
    "patterns": [
        r"it (?P<step>\d+) \| (?P<tokens_per_s>[\d,.]+) tok/s",
        r"it \d+ .*loss (?P<loss>\S+)",
        r"validation of (?P<step>\d+): (?P<validation_loss>\S+)",
    ],
}

JOB = {
    "trainer": "mine",
    "version": "1.2",
    "log": REGEX,
    "fingerprint": "0123456789abcdef",
    "name": "a cell",
    "params": 1000,
    "tokens_per_step": 100,
    "steps": 40,
    "gpus": 2,
    "nodes": 1,
    "device": "cpu",
}

Start = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "cell"
    found.mkdir()
    return found


@pytest.fixture
def start(folder: Path) -> Start:
    """Return a function that runs a script as a trainer; keys replace those of `JOB`."""

    def run(script: str, **changes: Any) -> int:
        (folder / "trainer.json").write_text(json.dumps(JOB | changes))
        return main([str(folder), "--", "bash", "-c", script])

    return run


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_another_gpu_than_the_clusters_is_refused(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by our own trainer, before the command is started."""
    monkeypatch.setattr(gpu_state, "find_visible", lambda visible: ["GPU-1", "GPU-2"])
    monkeypatch.setattr(gpu_state, "name_of", lambda uuid: "NVIDIA A100-SXM4-80GB")
    assert start("touch started", device="cuda", gpu_name="H200", workdir=str(folder)) == 1
    failure = read_failure(folder)
    assert failure is not None
    assert not failure.retry
    assert "gpu_name = H200: found NVIDIA A100-SXM4-80GB; expected a GPU with" in failure.message
    assert not (folder / "started").exists()
    start("touch started", device="cuda", gpu_name="A100 80GB", workdir=str(folder))
    assert (folder / "started").exists()


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


ALL = 'for i in 10 20 30 40; do echo "it $i | 1,0${i}.5 tok/s | loss 2.$i"; done'


def test_a_run_is_written_as_ours(folder: Path, start: Start) -> None:
    """At 1,020.5 tokens/s of all GPUs, a step of 100 tokens takes 0.0980 s."""
    assert start(f"{ALL}; echo validation of 40: 2.5") == 0
    run = read_run(folder)
    assert run is not None
    assert [record.step for record in run.records] == [10, 20, 30, 40]
    assert [record.loss for record in run.records] == [2.1, 2.2, 2.3, 2.4]
    assert run.records.column("step_s")[is_steady(run)] == pytest.approx(
        [100 / 1020.5, 100 / 1030.5, 100 / 1040.5]
    )
    assert records(folder)[1]["speed/wps"] == pytest.approx(1020.5 / 2)
    assert records(folder)[1]["optim/total_tokens"] == 2000
    assert [(e.step, e.loss) for e in run.evaluations] == [(40, 2.5)]
    found = run.summary
    assert (found.status, found.outcome, found.fingerprint) == (
        "completed",
        "trained",
        "0" + "123456789abcdef",
    )
    assert (found.params, found.gpus, found.steps_done, found.loss_final) == (1000, 2, 40, 2.4)
    assert (found.trainer_version, found.loss_validation) == ("1.2", 2.5)
    (attempt,) = found.attempts
    assert attempt.wall_s is not None
    assert run.wall_s == attempt.wall_s
    assert found.peak_memory_gib is not None


def test_the_first_interval_gives_the_start_up(folder: Path, start: Start) -> None:
    """The first line comes 0.5 s after the command's start, and is of 10 steps of 0.03 s, nine of
    which are not start-up."""
    before = time.monotonic()
    assert start('sleep 0.5; for i in 10 20 30 40; do echo "it $i | 3,333.333 tok/s"; done') == 0
    took = time.monotonic() - before
    startup = summary(folder)["attempts"][0]["startup"]
    assert startup["total_s"] == pytest.approx(startup["first_record_s"] - 9 * 0.03, abs=1e-3)
    assert startup["first_record_s"] > 0.5
    assert summary(folder)["attempts"][0]["wall_s"] >= startup["first_record_s"]
    assert took >= 0.5


def test_a_completed_run_is_left_alone(folder: Path, start: Start) -> None:
    assert start(ALL) == 0
    before = (folder / "run.json").read_bytes()
    assert start("exit 9") == 0
    assert (folder / "run.json").read_bytes() == before


def test_other_settings_start_again(folder: Path, start: Start, capfd: Any) -> None:
    assert start(ALL) == 0
    assert start(ALL, fingerprint="f" * 16) == 0
    assert len(summary(folder)["attempts"]) == 1
    assert summary(folder)["fingerprint"] == "f" * 16
    kept = folder / "superseded" / "1"
    assert {path.name for path in kept.iterdir()} >= {"run.json", "metrics.jsonl"}
    assert "the settings have changed" in capfd.readouterr().out


def test_a_trainer_that_resumes_goes_on(folder: Path, start: Start) -> None:
    """It saved at step 20: its second attempt repeats step 30."""
    saved = shlex.quote(f"{folder}/weights")
    fails = f"{ALL.replace(' 40', '')}; touch {saved}; exit 3"
    assert start(fails, resumes=True) == 1
    assert summary(folder)["status"] == "failed"
    goes_on = f'test -e {saved} && for i in 30 40; do echo "it $i | 900 tok/s"; done'
    assert start(goes_on, resumes=True) == 0
    assert [(r["global_step"], r["attempt"]) for r in records(folder)] == [
        (10, 1), (20, 1), (30, 2), (40, 2)
    ]  # fmt: skip
    attempts = summary(folder)["attempts"]
    assert [(a["attempt"], a["status"], a["first_step"]) for a in attempts] == [
        (1, "failed", 1), (2, "completed", 21)
    ]  # fmt: skip
    elapsed = [record["time/elapsed_s"] for record in records(folder)]
    assert elapsed == sorted(elapsed)
    run = read_run(folder)
    assert run is not None
    assert list(run.records.column("step")[is_steady(run)]) == [20, 40], (
        "the first of each attempt is left out"
    )


def test_a_trainer_that_does_not_resume_starts_afresh(folder: Path, start: Start) -> None:
    """What it has left, whatever its name, does not disturb the second attempt."""
    out = shlex.quote(f"{folder}/out")
    fails = f"mkdir {out}; {ALL.replace(' 30 40', '')}; exit 3"
    assert start(fails) == 1
    assert start(f"mkdir {out} && {ALL}") == 0
    assert [(r["global_step"], r["attempt"]) for r in records(folder)] == [
        (10, 2), (20, 2), (30, 2), (40, 2)
    ]  # fmt: skip
    attempts = summary(folder)["attempts"]
    assert [(a["status"], a["first_step"]) for a in attempts] == [("failed", 1), ("completed", 1)]
    assert len((folder / "superseded/1/metrics.jsonl").read_text().splitlines()) == 2
    assert (folder / "superseded/1/out").is_dir()


def test_a_failure_has_the_last_lines(folder: Path, start: Start) -> None:
    assert start("echo it 10 '|' 900 tok/s; echo 'ValueError: no such file' >&2; exit 3") == 1
    failure = read_failure(folder)
    assert failure is not None
    assert failure.retry
    assert "mine failed with code 3 at step 10 of 40" in failure.message
    assert failure.message.endswith("ValueError: no such file")
    assert start(ALL) == 0
    assert read_failure(folder) is None


def test_the_reason_is_before_the_summary_of_torchrun(folder: Path, start: Start) -> None:
    where = "torch/distributed/elastic/multiprocessing/api.py:1002]"
    script = (
        f"echo '[rank0]: KeyError: 5'; echo 'E1127 {where} failed (exitcode: 1) rank: 0'; "
        "for i in $(seq 30); do echo line $i; done; exit 1"
    )
    assert start(script) == 1
    assert (read_failure(folder) or pytest.fail()).message.endswith("\n[rank0]: KeyError: 5")


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("echo 'torch.OutOfMemoryError: CUDA out of memory.'; exit 1", "gpu_out_of_memory", "mine"),
        ("echo hello", "error", "no step was found in its output"),
    ],
)
def test_some_failures_are_not_retried(
    folder: Path, start: Start, script: str, kind: str, message: str
) -> None:
    assert start(script) == 1
    failure = read_failure(folder)
    assert failure is not None
    assert (failure.kind, failure.retry) == (kind, False)
    assert message in failure.message


def test_a_speed_in_another_unit_ends_the_run_and_is_in_no_table(
    folder: Path, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """1.0 k tokens/s, read as 1.0: a step of 100 tokens would take 100 s."""
    began = time.monotonic()
    script = 'for i in 10 20 30; do echo "it $i | 1.0 tok/s"; sleep 0.1; done; exec sleep 300'
    assert start(script) == 1
    assert time.monotonic() - began < 60
    failure = read_failure(folder)
    assert failure is not None
    assert (failure.kind, failure.retry) == ("configuration", False)
    told = "`log` of mine in trainers.yaml (format regex): by its log, the steps to 20 have taken "
    assert failure.message.startswith(f"{told}1,000 s, ")
    assert failure.message.endswith(" s after the start; expected a speed in the unit of its name")
    assert failure.message in capfd.readouterr().err
    assert not (folder / "metrics.jsonl").exists()
    assert (folder / "superseded/1/metrics.jsonl").exists()


def test_a_killed_command_is_a_failure(folder: Path, start: Start) -> None:
    assert start("kill -KILL $$") == 1
    assert "signal SIGKILL" in (read_failure(folder) or pytest.fail()).message


def test_an_early_end_is_a_failure(folder: Path, start: Start) -> None:
    assert start(ALL.replace(" 30 40", "")) == 1
    assert (
        read_failure(folder) or pytest.fail()
    ).message == "mine ended with code 0 at step 20 of 40"


def test_the_last_steps_may_not_be_logged(folder: Path, start: Start) -> None:
    assert start(ALL, steps=49) == 0
    assert start(ALL, steps=51, fingerprint="e") == 1


@pytest.mark.parametrize("when", ["while it trains", "at its end"])
def test_a_folder_that_was_deleted_is_no_complete_run(
    folder: Path, start: Start, capfd: Any, when: str
) -> None:
    """Its trainer goes on, and makes the folder again for a checkpoint of its own."""
    delete = f"rm -r {folder} && mkdir {folder}; touch {folder}/checkpoint"
    line = "it 40 | 1,000 tok/s | loss 2.0"
    trained = {
        "while it trains": f"echo '{line}'; sleep 0.5; {delete}; echo '{line}'; sleep 60",
        "at its end": f"{ALL}; sleep 0.5; {delete}",
    }
    assert start(trained[when].replace("it 40", "it 10", 1)) == 1
    assert [path.name for path in folder.iterdir()] == ["checkpoint"]
    assert re.search(
        r"^\S+cell: .* deleted or moved during the run: '\S+/cell/\S+'$",
        capfd.readouterr().err,
        re.M,
    )


def test_a_program_that_does_not_exist(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "trainer.json").write_text(json.dumps(JOB))
    assert main([str(folder), "--", "no-such-launcher"]) == 1
    assert "found no program 'no-such-launcher'" in capsys.readouterr().err
    failure = read_failure(folder)
    assert failure is not None
    assert (failure.kind, failure.retry) == ("configuration", False)
    (folder / "trainer.json").write_text(json.dumps(JOB | {"workdir": str(folder / "nowhere")}))
    assert main([str(folder), "--", "bash"]) == 1
    assert "found no folder" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_the_run(folder: Path, start: Start) -> None:
    """Whatever its exit code: a retry would diverge again."""
    assert (
        start("echo 'it 10 | 900 tok/s | loss 9'; echo 'it 20 | 900 tok/s | loss nan'; exit 1") == 0
    )
    found = summary(folder)
    assert (found["status"], found["outcome"], found["loss_final"]) == (
        "completed",
        "diverged",
        None,
    )
    assert records(folder)[-1]["loss/out"] is None


STOPPED = (
    "trap 'echo asked >> asked; exit 7' {own}; echo 'it 10 | 900 tok/s'; "
    "kill -{sent} $PPID; for i in {{1..50}}; do sleep 0.1; done; echo 'it 40 | 900 tok/s'"
)
"""Without `$(...)`: bash 5.2 has a syntax error if the signal comes while it reads that."""


@pytest.mark.parametrize("sent", ["TERM", "USR1", "INT"])
@pytest.mark.parametrize("own", ["SIGTERM", "SIGUSR2"])
def test_a_stop_request_is_forwarded(folder: Path, start: Start, sent: str, own: str) -> None:
    """As the signal that the trainer takes; the run's job is continued, by the exit code."""
    script = STOPPED.format(sent=sent, own=own)
    workdir = str(folder)
    assert start(script, resumes=True, stop_signal=own, workdir=workdir) == EXIT_PREEMPTED
    found = summary(folder)
    assert (found["status"], found["steps_done"]) == ("preempted", 10)
    assert (folder / "asked").read_text() == "asked\n"
    assert start(ALL, resumes=True) == 0
    assert [a["status"] for a in summary(folder)["attempts"]] == ["preempted", "completed"]


def test_a_repeated_request_is_forwarded_once(folder: Path, start: Start) -> None:
    """torchrun would leave its ranks at the second one, while they save."""
    script = (
        "trap 'echo asked >> asked' TERM; echo 'it 10 | 900 tok/s'; "
        "for i in 1 2 3; do kill -TERM $PPID; sleep 0.2; done; exit 7"
    )
    assert start(script, resumes=True, workdir=str(folder)) == EXIT_PREEMPTED
    assert (folder / "asked").read_text() == "asked\n"


def test_a_stop_of_a_trainer_that_does_not_resume(folder: Path, start: Start) -> None:
    """It has nothing to go on from, so the job has failed; a retry may help."""
    assert start(STOPPED.format(sent="TERM", own="TERM"), workdir=str(folder)) == 1
    assert summary(folder)["status"] == "failed"
    failure = read_failure(folder)
    assert failure is not None
    assert failure.retry
    assert failure.message == (
        "mine was stopped by SIGTERM at step 10 of 40. It does not resume: a retry starts afresh."
    )


def test_the_warning_before_a_time_limit_does_not_end_what_cannot_save(
    folder: Path, start: Start
) -> None:
    assert start(f"kill -USR1 $PPID; sleep 0.3; {ALL}") == 0


@pytest.mark.parametrize("each", ["version_{}", "same"])
def test_a_log_file_is_followed(folder: Path, start: Start, each: str) -> None:
    """Each attempt writes its own, or adds to the same; earlier lines are not read again."""
    log = {"format": "json", "file": f"{folder}/out/*/log.jsonl"}
    log["fields"] = {"step": "n", "step_s": "time.s"}  # type: ignore[assignment]

    def script(number: int, steps: tuple[int, ...], end: str) -> str:
        path = shlex.quote(f"{folder}/out/{each.format(number)}")
        lines = [json.dumps({"n": step, "time": {"s": step / 1000}}) for step in steps]
        writes = [f"echo '{line}' >> {path}/log.jsonl; sleep 0.02" for line in lines]
        return "; ".join([f"mkdir -p {path}", "echo it 10", *writes, end])

    other = shlex.quote(f"{folder}/out/x")
    assert start(script(0, (10, 20, 30), f"printf '{{' >> {other}; exit 1"),
                 resumes=True, log=log) == 1  # fmt: skip
    assert start(script(1, (30, 40), "exit 0"), resumes=True, log=log) == 0
    found = [(r["global_step"], r["time/step_s"], r["attempt"]) for r in records(folder)]
    assert found == [(10, 0.01, 1), (20, 0.02, 1), (30, 0.03, 2), (40, 0.04, 2)]


def test_a_trainer_state_is_read_again(folder: Path, start: Start) -> None:
    """After a resume it begins with the entries of the checkpoint, whose times do not count."""
    path = folder / "trainer_state.json"

    def entries(*steps: int, since: float) -> list[dict[str, Any]]:
        return [{"step": s, "loss": 2.0, "train_runtime": s * 0.5 - since} for s in steps]

    def script(*histories: list[dict[str, Any]]) -> str:
        lines = []
        for history in histories:
            text = json.dumps({"log_history": history})
            lines.append(f"printf '%s' '{text}' > {shlex.quote(str(path))}; sleep 0.25")
        return "; ".join(lines)

    log = {"format": "trainer_state", "file": str(path)}
    first = entries(10, 20, 30, since=0.0)
    assert start(script(first[:1], first) + "; exit 1", resumes=True, log=log) == 1
    again = [*first[:2], *entries(30, 40, since=10.0)]
    assert start(script(first[:2], again[:3], again), resumes=True, log=log) == 0
    assert [(r["global_step"], r["attempt"]) for r in records(folder)] == [
        (10, 1), (20, 1), (30, 2), (40, 2)
    ]  # fmt: skip
    assert [r["time/step_s"] for r in records(folder)][1::2] == pytest.approx([0.5, 0.5])


def test_saves_of_unknown_length_are_not_in_steady_state(folder: Path, start: Start) -> None:
    """Checkpoints every 20 steps, after the record: the interval up to step 30 includes one."""
    assert start(ALL, saves_every=20) == 0
    assert [r["time/paused"] for r in records(folder)] == [False, False, True, False]
    run = read_run(folder)
    assert run is not None
    assert list(run.records.column("step")[is_steady(run)]) == [20, 40]


def test_the_config_and_the_environment_are_the_descriptions(folder: Path, start: Start) -> None:
    config = {"file": str(folder / "config.yaml"), "text": "steps: 40\n"}
    written = shlex.quote(f"{folder}/config.yaml")
    script = f"grep -q 'steps: 40' {written} && test $NAME = value && {ALL}"
    assert start(script, config=config, environment={"NAME": "value"}) == 0
    (folder / "settings.yaml").write_text("steps: 40\n")
    assert start(script, config=config, environment={"NAME": "value"}, fingerprint="e") == 0
    assert (folder / "run.yaml").read_text() == "steps: 40\n"


def test_a_killed_wrapper_leaves_no_second_trainer(folder: Path) -> None:
    """The command is asked to end, and holds the folder's lock until it has."""
    (folder / "trainer.json").write_text(json.dumps(JOB | {"workdir": str(folder)}))
    script = "trap 'sleep 1; touch ended; exit 1' TERM; echo ready; while :; do sleep 0.05; done"
    command = [
        sys.executable,
        "-m",
        "study.jobs.foreign_run",
        str(folder),
        "--",
        "bash",
        "-c",
        script,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as wrapper:
        assert wrapper.stdout is not None
        said = wrapper.stdout.readline()
        os.kill(wrapper.pid, signal.SIGKILL)
        wrapper.wait()
        assert said == b"ready\n"
        goes_on = f"test -e superseded/1/ended && {ALL}"
        assert main([str(folder), "--", "bash", "-c", goes_on]) == 0
    assert [a["status"] for a in summary(folder)["attempts"]] == ["failed", "completed"]


def test_other_nodes_write_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "trainer.json").write_text(json.dumps(JOB))
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert main([str(folder), "--", "bash", "-c", f"{ALL}; exit 5"]) == 5
    assert {path.name for path in folder.iterdir()} == {"trainer.json"}


def test_other_nodes_do_not_start_a_command_for_a_run_that_is_complete(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waited in the queue while another job trained it: the first node starts none, and
    theirs would fail, as they meet nobody."""
    assert start(ALL) == 0
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert start("exit 5") == 0
    assert start("exit 5", fingerprint="0" * 16) == 5
