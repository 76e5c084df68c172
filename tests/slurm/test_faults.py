"""What goes wrong on clusters, all in one study: each cell meets another fault.

The cells run at the same time, as on a real cluster. Each fault is injected when its cell has come
to the middle of its run. The tests then look at what became of their cell; its losses are compared
with those of a cell that nothing happened to, on as many processes.
"""

import contextlib
import datetime
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from study.grid import Grid
from study.load import load_study_file
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import to_frame
from tests.slurm.cluster.api import Cluster
from tests.slurm.studies import STEPS, SlurmStudy, partition, wait_until

pytestmark = pytest.mark.slurm

MIDDLE = 8

# Nothing else is put on sphinx2 to sphinx4, which faults happen to.
CALM_NODE = {"extra": "--nodelist=sphinx1"}


class Storm:
    """The study after all faults, and what the injections noted on the way."""

    def __init__(self, study: SlurmStudy, node: str, output: str, returncode: int) -> None:
        self.study = study
        self.dead_node = node
        self.output = output
        self.returncode = returncode

    def assert_as_undisturbed(self, name: str, processes: int) -> None:
        summary = self.study.summary(name)
        assert (summary["status"], summary["outcome"]) == ("completed", "trained")
        assert self.study.losses(name) == self.study.losses(f"calm{processes}")

    def attempts(self, name: str) -> list[str]:
        return [attempt["status"] for attempt in self.study.summary(name)["attempts"]]


@pytest.fixture(scope="module")
def storm(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storm]:
    study = SlurmStudy(cluster, tmp_path_factory.mktemp("storm"), "storm")
    _write_cells(study)
    disk = study.run_folder("disk")
    disk.parent.mkdir(parents=True)
    shutil.rmtree(cluster.small_disk / "run", ignore_errors=True)
    (cluster.small_disk / "run").mkdir()
    disk.symlink_to(cluster.small_disk / "run")
    process = study.start()
    try:
        node = _inject_all(study, disk)
        returncode = process.wait(420)
        yield Storm(study, node, study.log.read_text(), returncode)
    finally:
        process.kill()
        process.wait()
        cluster.run("scancel", "--user=root")
        cluster.restore_nodes()


def _write_cells(study: SlurmStudy) -> None:
    def held(where: str, name: str, gpus: int = 1, **slurm: object) -> None:
        fault = f"hold:{name}"
        study.hold(fault)
        study.add(name, partition(where, fault, study.folder, **slurm), gpus)

    def faulty(where: str, name: str, gpus: int = 1, **slurm: object) -> None:
        study.add(name, partition(where, name, study.folder, **slurm), gpus)

    study.add("calm1", partition("sphinx", **CALM_NODE))
    study.add("calm2", partition("sphinx", **CALM_NODE), gpus=2)
    held("sphinx", "time_limit", warn_s=45, **CALM_NODE)
    held("sphinx", "cancelled", **CALM_NODE)
    held("sphinx", "disk", **CALM_NODE)
    held("sphinx", "preempted", extra="--nodelist=sphinx4")
    held("sphinx", "node_dies", extra="--exclude=sphinx1,sphinx4")
    held("miso", "requeued", gpus=2, gpus_per_node=1)
    faulty("sphinx", "gpu_out_of_memory", gpus=2, **CALM_NODE)
    faulty("sphinx", "host_out_of_memory", mem_gib=2, max_mem_gib=6, **CALM_NODE)
    faulty("sphinx", "rank_raises", gpus=2, **CALM_NODE)
    faulty("sphinx", "rank_hangs", gpus=2, **CALM_NODE)


def _inject_all(study: SlurmStudy, disk: Path) -> str:
    """Wait for each cell to come to the middle of its run, and strike."""
    cluster = study.cluster

    def strike(name: str) -> int:
        return study.wait_for_step(name, MIDDLE)

    job = strike("node_dies")
    node = cluster.node_of(job)
    cluster.kill_node(node)
    study.release("hold:node_dies")

    job = strike("time_limit")
    # In whole minutes, 20 to 80 s from now, which `is_time_up` takes for near. Of an EndTime, Slurm
    # makes a limit that may be later.
    used = cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%M").strip()
    minutes, seconds = (int(part) for part in used.split(":"))
    limit = minutes + (1 if seconds < 40 else 2)
    cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")

    cluster.cancel(strike("cancelled"))
    cluster.requeue(strike("requeued"))

    strike("preempted")
    cluster.sbatch(
        *("-A", "nlp", "-p", "sphinx", "--mem=100M", "--time=5", "--qos=high"),
        *("--nodelist=sphinx4", "--gres=gpu:1"),
        command="sleep 5",
    )
    for name in ("requeued", "preempted"):
        wait_until(lambda name=name: has_saved(study, name), f"{name} is told and saves", 60)
        study.release(f"hold:{name}")

    job = strike("disk")
    _fill(disk / "ballast")
    study.release("hold:disk")
    wait_until(lambda: cluster.state(job) == "FAILED", "the full disk ends a job", 120)
    (disk / "ballast").unlink()

    wait_until(lambda: has_saved(study, "time_limit"), "the time limit is announced", 120)
    study.release("hold:time_limit")
    return node


def has_saved(study: SlurmStudy, name: str) -> bool:
    """Whether any attempt has saved: on a busy machine the next one may run before this looks."""
    return any(attempt["status"] == "preempted" for attempt in study.summary(name)["attempts"])


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_the_other_cells_are_measured_all_the_same(storm: Storm) -> None:
    assert storm.returncode == 1
    cells = set(storm.study.study["clusters"])
    completed = {name for name in cells if (storm.study.run_folder(name) / "completed").exists()}
    assert completed == cells - {"cancelled", "gpu_out_of_memory"}


def test_time_limit_the_run_is_told_saves_and_goes_on_with_more_time(storm: Storm) -> None:
    first, second = storm.study.jobs("time_limit")
    assert storm.attempts("time_limit") == ["preempted", "completed"]
    assert storm.study.cluster.sacct(second, "TimelimitRaw") == {"TimelimitRaw": "20"}
    # It went on from the step that it was told in, not from a checkpoint made before.
    log = storm.study.slurm_log("time_limit")
    (step,) = re.findall(r"asked to stop at step (\d+); saved", log)
    assert f"resuming from step {step}" in log
    storm.assert_as_undisturbed("time_limit", 1)
    assert first < second


def test_preemption_slurm_requeues_the_job_and_it_goes_on(storm: Storm) -> None:
    (job,) = storm.study.jobs("preempted")
    assert storm.study.cluster.state_history(job) == ["PREEMPTED", "COMPLETED"]
    assert storm.attempts("preempted") == ["preempted", "completed"]
    storm.assert_as_undisturbed("preempted", 1)


def test_requeue_of_a_job_on_two_nodes(storm: Storm) -> None:
    (job,) = storm.study.jobs("requeued")
    assert storm.study.cluster.state_history(job)[-1] == "COMPLETED"
    assert storm.attempts("requeued") == ["preempted", "completed"]
    summary = storm.study.summary("requeued")
    assert summary["hosts"] == ["miso1", "miso2"]
    assert summary["addresses"] == ["10.231.0.21", "10.231.0.22"]
    storm.assert_as_undisturbed("requeued", 2)


def test_node_failure_the_job_goes_on_on_another_node(storm: Storm) -> None:
    (job,) = storm.study.jobs("node_dies")
    assert storm.attempts("node_dies") == ["failed", "completed"]
    hosts = [attempt["hosts"] for attempt in storm.study.summary("node_dies")["attempts"]]
    assert hosts[0] == [storm.dead_node]
    assert hosts[1] == list({"sphinx2", "sphinx3"} - {storm.dead_node})
    storm.assert_as_undisturbed("node_dies", 1)
    assert storm.study.cluster.state(job) == "COMPLETED"


def test_scancel_is_told_and_not_retried(storm: Storm) -> None:
    assert len(storm.study.jobs("cancelled")) == 1
    assert "It was cancelled and is not retried" in storm.output
    # It was asked to stop before it was killed, and saved: nothing computed is lost.
    assert storm.attempts("cancelled") == ["preempted"]


def test_gpu_out_of_memory_fails_once_and_names_the_remedy(storm: Storm) -> None:
    assert len(storm.study.jobs("gpu_out_of_memory")) == 1
    assert "rank 1 of 2 on sphinx1 is out of GPU memory" in storm.output
    assert "data.batch_size=1 grad_acc_steps=2, which keeps the global batch of 4" in storm.output
    assert storm.output.count("Not retried.") == 1


def test_host_out_of_memory_is_retried_with_more(storm: Storm) -> None:
    memory = [
        storm.study.cluster.sacct(job, "ReqMem")["ReqMem"]
        for job in storm.study.jobs("host_out_of_memory")
    ]
    assert memory == ["2G", "4G"]
    storm.assert_as_undisturbed("host_out_of_memory", 1)


def test_one_rank_dying_ends_the_job_and_its_traceback_is_shown(storm: Storm) -> None:
    study = storm.study
    first, _ = study.jobs("rank_raises")
    assert "rank 1 of 2 on sphinx1 failed: RuntimeError: an injected fault" in storm.output
    assert 'raise RuntimeError("an injected fault")' in study.slurm_log("rank_raises")
    assert seconds_until_end(study, first, "rank_raises") < 60
    storm.assert_as_undisturbed("rank_raises", 2)


def test_a_hanging_rank_ends_the_job(storm: Storm) -> None:
    first, _ = storm.study.jobs("rank_hangs")
    # timeout_s is 20 in this study; torchrun gives a process 30 s to end before it kills it.
    assert seconds_until_end(storm.study, first, "rank_hangs") < 20 + 30 + 15
    storm.assert_as_undisturbed("rank_hangs", 2)


def test_a_full_disk_is_named_and_the_retry_goes_on(storm: Storm) -> None:
    assert "No space left on device" in storm.study.slurm_log("disk")
    assert len(storm.study.jobs("disk")) == 2
    assert storm.study.summary("disk")["attempts"][-1]["first_step"] > MIDDLE - 4
    storm.assert_as_undisturbed("disk", 1)


def test_a_resumed_runs_throughput_counts_steady_steps_only(storm: Storm) -> None:
    grid = Grid(load_study_file(str(storm.study.file)))
    table = to_frame(throughput_rows(grid)).set_index("cluster")
    assert table.loc["calm1", "attempts"] == 1
    assert table.loc["calm1", "steady_steps"] == STEPS - 1  # but the first record's one step
    records = storm.study.records("time_limit")
    first_of_attempt = {record["attempt"]: record for record in reversed(records)}
    excluded = sum(record["time/interval_steps"] for record in first_of_attempt.values())
    counted = sum(record["time/interval_steps"] for record in records) - excluded
    assert table.loc["time_limit", "attempts"] == 2
    assert table.loc["time_limit", "steady_steps"] == counted


def seconds_until_end(study: SlurmStudy, job: int, fault: str) -> float:
    """Return the seconds between an injected fault and the end of the job that it struck."""
    end = study.cluster.sacct(job, "End")["End"]
    happened = (study.folder / f"{fault}-happened").stat().st_mtime
    return datetime.datetime.fromisoformat(end).timestamp() - happened
