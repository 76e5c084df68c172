"""A study in slices: a stopped run saves and resumes, a finished study is published."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.publish import GO_ON
from tests.waiting import PATIENCE_S, wait_until
from tests.workflow.checkout import ROOT
from tests.workflow.workspace import Workspace, snakemake


def start(workspace: Workspace) -> subprocess.Popen[str]:
    command = ["-m", "benchmarks.publish", "--study", str(workspace.file)]
    return subprocess.Popen(
        [sys.executable, *command, "--output", str(workspace.folder / "published")],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_slice_saves_at_its_end_and_the_next_publishes(tmp_path: Path) -> None:
    """The end of a slice is a stop request; here the request comes at a known step."""
    workspace = Workspace(tmp_path)
    workspace.study["run"] |= {"steps": 1000, "checkpoint": {}, "eval": None}
    workspace.study["grid"] = [{"cluster": "here", "model": "one", "gpus": 1}]
    workspace.write()
    metrics = workspace.run_folder("one") / "metrics.jsonl"
    part = start(workspace)
    wait_until(
        lambda: metrics.exists() and metrics.read_text().count("\n") > 2, "it has three records"
    )
    part.send_signal(signal.SIGTERM)
    output, _ = part.communicate(timeout=PATIENCE_S)
    assert part.returncode == GO_ON, output
    assert "run the same command again" in output
    assert not (tmp_path / "published").exists()
    facts = json.loads(metrics.with_name("run.json").read_text())
    assert facts["status"] == "preempted"
    last = json.loads(metrics.read_text().splitlines()[-1])["global_step"]

    part = start(workspace)
    output, _ = part.communicate(timeout=PATIENCE_S)
    assert part.returncode == 0, output
    facts = json.loads(metrics.with_name("run.json").read_text())
    assert facts["status"] == "completed"
    assert facts["attempts"][1]["first_step"] > last  # nothing that was recorded is done again
    made = {path.name for path in (tmp_path / "published").iterdir()}
    assert made >= {"report.html", "study.yaml", "throughput.csv", "throughput.md"}
    assert made >= {"time_estimates.csv", "time_estimates.md", "VERSIONS"}
    assert made >= {"loss_vs_tokens.svg", "throughput.svg"}
    versions = (tmp_path / "published" / "VERSIONS").read_text().splitlines()
    assert f"torch: {facts['versions']['torch']}" in versions
    assert f"commit: {facts['commit'] or 'unknown'}" in versions  # the copy has no history
    assert f"gpu: {facts['gpu_name']}" in versions


def test_the_study_of_one_h200_plans_its_ladder() -> None:
    """On this machine, through torchrun with one process, without Slurm or a download."""
    done = snakemake("-n", "-p", "--cores", "1", "--configfile", "config/studies/h200.yaml")
    assert done.returncode == 0, done.stdout
    launch = "torchrun --nproc_per_node=1 --standalone --local-addr=localhost -m trainer"
    launch += " config=results/h200/runs/h200"
    for cell in ("small/gpus-1/compile", "206M/gpus-1/eager", "820M/gpus-1/compile"):
        assert f"{launch}/{cell}/seed-42/settings.yaml" in done.stdout, cell
    assert done.stdout.count(launch) == 7
    assert "SLURM" not in done.stdout
