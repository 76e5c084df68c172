"""What happens to Snakemake, or between Snakemake and Slurm's daemons."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from study.grid import Grid
from study.jobs.dispatch import find_rejected
from study.jobs.launch import request_line
from study.load import load_study
from tests.slurm.cluster.api import Cluster
from tests.slurm.studies import ROOT, SlurmStudy, partition, wait_until

pytestmark = pytest.mark.slurm

# More than the 30 s after which the plugin alone would have forgotten its jobs, or the minute that
# a restart of the controller takes.
OUTAGE_S = 60


@pytest.fixture
def study(cluster: Cluster, tmp_path: Path) -> Iterator[SlurmStudy]:
    yield SlurmStudy(cluster, tmp_path, "dispatch")
    cluster.run("scancel", "--user=root")


def held(study: SlurmStudy, name: str) -> None:
    study.hold(f"hold:{name}")
    study.add(name, partition("sphinx", f"hold:{name}", study.folder))


def test_a_wrong_account_or_partition_is_told_in_seconds(study: SlurmStudy) -> None:
    study.add("wrong-account", partition("sphinx", account="miso"))
    study.add("wrong-partition", partition("phinx"))
    study.add("right", partition("sphinx"))
    study.study["clusters"]["wrong-partition"]["slurm"]["account"] = "nlp"
    started = time.monotonic()
    output = study.run()
    assert study.returncode == 1
    assert time.monotonic() - started < 15
    problems = [line for line in output.splitlines() if line.startswith("  cluster '")]
    assert len(problems) == 2
    assert "requests to Slurm: 2 problems" in output
    assert "'wrong-account' requests `sbatch -A miso -p sphinx --gres=gpu:1" in problems[0]
    assert "Invalid account or account/partition combination specified" in problems[0]
    assert "'wrong-partition'" in problems[1]
    assert "invalid partition specified: phinx" in problems[1]
    assert "Traceback" not in output
    assert study.cluster.run("squeue", "--me", "--noheader") == ""
    # Nothing is left locked: what needs no such request is made.
    study.study["grid"] = study.study["grid"][2:]
    study.run(str(study.results / "study.yaml"))
    assert study.returncode == 0


def test_sbatch_accepts_every_style_of_a_request(study: SlurmStudy) -> None:
    typed = {"sphinx": "a100", "miso": "h200"}
    for name, kind in typed.items():
        for style in ("gres", "gpus-per-task", "gpus-per-node"):
            request = {"gpu_request": style, "gpu_type": kind, "qos": "high"}
            study.add(f"{name}-{style}", partition(name, **request), gpus=8)
    study.add("two-nodes", partition("miso", gpu_type="h200"), gpus=16)
    study.add("no-warning", partition("sphinx", warn_s=0, extra="--exclusive"))
    grid = Grid(load_study(study.study))
    assert len(grid) == 8
    assert find_rejected(grid) == []
    study.add("too-much", partition("sphinx", mem_gib=2000))
    (problem,) = find_rejected(Grid(load_study(study.study)))
    assert "'too-much'" in problem
    assert "node configuration is not available" in problem


def test_a_place_without_slurm_is_told(study: SlurmStudy) -> None:
    study.add("here", {"device": "cpu", "gpu_name": "CPU core", "gpus_per_node": 1})
    output = study.run()
    assert study.returncode == 1
    assert "cluster 'here' has no `slurm:` settings" in output


def test_a_request_for_nodes_that_are_down_may_wait(study: SlurmStudy) -> None:
    cluster = study.cluster
    study.add("later", partition("sphinx", extra="--nodelist=sphinx3"))
    (cell,) = Grid(load_study(study.study))
    cluster.run("scontrol", "update", "NodeName=sphinx3", "State=DRAIN", "Reason=test")
    try:
        # sbatch itself takes it, and the job waits; its test alone says otherwise.
        assert find_rejected([cell]) == []
        request = request_line(cell.cluster_config, cell.gpus).split()
        assert cluster.state(cluster.sbatch(*request, command="true")) == "PENDING"
    finally:
        cluster.run("scontrol", "update", "NodeName=sphinx3", "State=RESUME")


def test_snakemake_killed_and_started_again(study: SlurmStudy) -> None:
    """The new job waits for the one that still runs, and finds its work done."""
    held(study, "cell")
    first = study.start()
    study.wait_for_step("cell", 8)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    (job,) = study.jobs("cell")
    assert study.cluster.state(job) == "RUNNING"

    unlock = [sys.executable, "-m", "snakemake", "--configfile", str(study.file), "--unlock"]
    subprocess.run(unlock, cwd=ROOT, check=True, capture_output=True)
    second = study.start()
    wait_until(lambda: len(study.jobs("cell")) == 2, "the cell is submitted again", 60)
    time.sleep(3)
    assert study.cluster.state(study.jobs("cell")[1]) == "PENDING"
    assert f"Slurm job {job} of an earlier invocation still runs" in study.log.read_text()

    study.release("hold:cell")
    assert second.wait(120) == 0
    assert study.cluster.state(job) == "COMPLETED"
    assert len(study.summary("cell")["attempts"]) == 1
    assert study.slurm_log("cell").count("the run is complete already") == 1


def during(
    study: SlurmStudy, stop: Callable[[], None], start: Callable[[], None], seconds: float
) -> None:
    """Run a study of two cells one after the other, with an outage while the first trains."""
    held(study, "cell")
    study.add("next", partition("sphinx"))
    process = study.start("--jobs", "1")
    job = study.wait_for_step("cell", 8)
    stop()
    try:
        time.sleep(seconds)
    finally:
        start()
    study.release("hold:cell")
    assert process.wait(180) == 0
    assert study.jobs("cell") == [job]
    assert study.summary("next")["status"] == "completed"


def test_the_controller_is_away_for_a_minute(study: SlurmStudy) -> None:
    cluster = study.cluster
    during(
        study,
        lambda: cluster.stop_service("slurmctld"),
        lambda: cluster.start_service("slurmctld"),
        OUTAGE_S,
    )


def test_no_accounting_daemon_while_jobs_are_submitted_and_end(study: SlurmStudy) -> None:
    cluster = study.cluster
    held(study, "cell")
    cluster.stop_service("slurmdbd")
    try:
        process = study.start()
        study.wait_for_step("cell", 8)
        study.release("hold:cell")
        assert process.wait(60) == 0
    finally:
        cluster.start_service("slurmdbd")


def test_no_controller_to_submit_to_costs_no_retry(study: SlurmStudy) -> None:
    """An sbatch that cannot reach the controller, four times: more often than there are retries."""
    commands = study.folder / "commands"
    commands.mkdir()
    sbatch = commands / "sbatch"
    real = study.cluster.run("which", "sbatch").strip()
    sbatch.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *test-only*) exec {real} "$@";; esac\n'
        f"echo x >> {commands}/calls\n"
        f"if [ $(wc -l < {commands}/calls) -le 4 ]; then\n"
        "  echo 'sbatch: error: Batch job submission failed: "
        "Unable to contact slurm controller (connect failure)' >&2; exit 1\n"
        f'fi\nexec {real} "$@"\n'
    )
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IXUSR)
    study.add("cell", partition("sphinx"))
    output = study.run(PATH=f"{commands}:{os.environ['PATH']}")
    assert study.returncode == 0
    assert output.count("The job is submitted again") == 4
    assert len((commands / "calls").read_text().splitlines()) == 4 + 2  # text, then the cell


def test_profile_states_one_policy() -> None:
    """Slurm requeues, Snakemake retries; retries in a rule would be multiplied by the job's own."""
    profile = yaml.safe_load((ROOT / "profiles" / "default" / "profile.yaml").read_text())
    assert profile["slurm-requeue"] is True
    assert "slurm-no-requeue" not in profile
    assert profile["retries"] == 2
    assert profile["slurm-status-command"] == "squeue"
    for rules in (ROOT / "workflow" / "rules").glob("*.smk"):
        assert "retries:" not in rules.read_text()
