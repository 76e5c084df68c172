"""A study that is not finished: partial, with a failed run, killed or interrupted."""

import json
import os
import re
import signal
import time
from pathlib import Path

import psutil
import yaml

from tests.waiting import PATIENCE_S, wait_until
from tests.workflow.workspace import Workspace, snakemake, start_snakemake


def test_a_partial_study_has_its_tables(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    partial = ("time_estimates", "--config", "partial=true")
    assert "train" not in workspace.planned(*partial)
    workspace.snakemake("--cores", "1", *partial)
    assert (workspace.results / "time_estimates.csv").read_text().count("Estimated") == 3
    target = workspace.run_folder("one") / "completed"
    workspace.snakemake("--cores", "1", str(target))
    workspace.snakemake("--cores", "1", *partial)
    estimates = (workspace.results / "time_estimates.csv").read_text()
    assert estimates.count("Verified") == 1
    assert estimates.count("Estimated") == 2


def test_a_failed_run_does_not_prevent_the_tables_and_the_report(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (tmp_path / "empty").mkdir()
    empty = {"checkpoint": {"init_ckpt_path": str(tmp_path / "empty")}}
    workspace.study["variants"] = {"broken": empty}
    cells = {"cluster": "here", "model": "one", "gpus": 1}
    workspace.study["grid"] = [cells, {**cells, "variant": "broken"}]
    workspace.write()
    output = workspace.snakemake("--cores", "1", "--retries", "0", check=False)
    assert "At least one job did not complete successfully" in output
    assert "A run has failed. The tables of the others are made now" in output
    assert (workspace.results / "throughput.md").read_text().count("completed") == 1
    assert (workspace.results / "time_estimates.md").exists()
    page = (workspace.results / "report.html").read_text().partition("What is missing")[2]
    assert "here/one/gpus-1/broken/seed-42: failed" in page
    assert "init_ckpt_path" in page  # why
    # Asked for one run alone, nothing else is made.
    (workspace.results / "report.html").unlink()
    flag = workspace.results / "runs/here/one/gpus-1/broken/seed-42/completed"
    output = workspace.snakemake("--cores", "1", "--retries", "0", str(flag), check=False)
    assert "Error in rule train" in output
    assert "The tables of the others" not in output


def test_a_killed_run_keeps_its_files_and_resumes(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.study["run"] |= {"steps": 300, "checkpoint": {"dump": {"every": 20}}}
    workspace.write()
    folder = workspace.run_folder("one")
    target = str(folder / "completed")
    arguments = ("--cores", "1", "--retries", "0", target, "--configfile", str(workspace.file))
    with start_snakemake(*arguments) as process:
        wait_until(lambda: any(folder.glob("checkpoints/[0-9]*40")), "it saves step 40")
        for child in psutil.Process(process.pid).children(recursive=True):
            if "trainer" in child.cmdline() and "--standalone" not in child.cmdline():
                child.kill()
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "Error in rule train" in output
    assert (folder / "metrics.jsonl").exists()
    workspace.snakemake("--cores", "1", target)
    facts = json.loads((folder / "run.json").read_text())
    first, second = facts["attempts"]
    assert (first["first_step"], first["status"]) == (1, "failed")
    assert second["first_step"] >= 41
    records = (folder / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(record)["global_step"] for record in records]
    assert steps == [1, *range(2, 301, 2)]
    log = (folder / "train.log").read_text()
    assert f"resuming from step {second['first_step'] - 1}" in log
    assert "1/300" in log  # of the first attempt: nothing is overwritten


def test_planning_other_settings_disturbs_no_running_study(tmp_path: Path) -> None:
    """It removed the `completed` of finished runs, and rewrote study.yaml."""
    workspace = Workspace(tmp_path)
    edited = tmp_path / "edited.yaml"
    edited.write_text(
        yaml.safe_dump({**workspace.study, "run": {**workspace.study["run"], "steps": 14}})
    )
    flags = [workspace.run_folder(model) / "completed" for model in ("one", "two")]
    arguments = ("--cores", "1", "throughput", "--configfile", str(workspace.file))
    with start_snakemake(*arguments) as process:
        wait_until(lambda: any(flag.exists() for flag in flags), "a run is finished")
        dry = snakemake("-n", "--configfile", str(edited)).stdout
        plan = snakemake("--cores", "1", "plan", "--configfile", str(edited)).stdout
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert re.search(r"^train +2$", dry, re.MULTILINE), dry
    assert "Params have changed since last execution: steps 12 -> 14\n" in dry
    assert "stale (steps 12 -> 14)" in plan
    assert (workspace.results / "throughput.md").read_text().count("completed") == 2
    assert "steps: 12\n" in (workspace.results / "study.yaml").read_text()


def test_an_interrupted_study_resumes(tmp_path: Path) -> None:
    """Ctrl-C: Snakemake, torchrun and the trainer receive SIGINT, and an impatient user presses it
    again, of which only Snakemake is sent the signal here."""
    workspace = Workspace(tmp_path)
    workspace.study["run"] |= {"steps": 300, "checkpoint": {"dump": {"every": 20}}}
    workspace.write()
    folder = workspace.run_folder("one")
    with start_snakemake("--cores", "all", "--configfile", str(workspace.file)) as process:
        wait_until(lambda: any(folder.glob("checkpoints/[0-9]*20")), "it saves step 20")
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert json.loads((folder / "run.json").read_text())["status"] != "completed"
    # It is no failure, and what was asked for can wait.
    assert output.count("saved, can be resumed") == 1
    assert "Stopped by Ctrl-C. Run the same command again to continue." in output
    for told in ("A run has failed", "Error in rule", "Trying to restart", "Traceback"):
        assert told not in output, output
    workspace.snakemake("--cores", "1", str(folder / "completed"))
    facts = json.loads((folder / "run.json").read_text())
    assert facts["status"] == "completed"
    assert facts["attempts"][-1]["first_step"] >= 21
