"""config/studies/slurm-trial.yaml as the README shows it: everything a user sees, once."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from study.grid import Cell, Grid
from study.load import load_study_file
from tests.slurm.cluster.api import Cluster
from tests.slurm.studies import ROOT

pytestmark = pytest.mark.slurm

STUDY = "config/studies/slurm-trial.yaml"
NOTICED_S = 15
"""3 s with four other busy processes on two cores. Questions to Slurm are 20 s apart, or more."""
SIZES = ("nano", "micro", "mini")


class Trial:
    """The finished study, the commands of its submissions, and what Snakemake said."""

    def __init__(
        self, cluster: Cluster, folder: Path, options: tuple[str, ...], output: str
    ) -> None:
        self.cluster = cluster
        self.options = options
        self.results = folder / "results" / "slurm-trial"
        self.commands = (folder / "sbatch-calls").read_text().splitlines()
        self.output = output
        self.grid = Grid(load_study_file(STUDY))

    def run_folder(self, cell: Cell) -> Path:
        return self.results / Path(cell.folder).relative_to("results/slurm-trial")

    def job(self, cell: Cell) -> int:
        (log,) = (self.run_folder(cell) / "slurm_logs").glob("*.log")
        return int(log.stem)

    def command(self, comment: str) -> str:
        """Return the sbatch command with a comment, without what differs between invocations."""
        (line,) = {
            line
            for line in self.commands
            if f"--comment {comment} " in line and "--test-only" not in line
        }
        line = re.sub(r"--job-name \S+", "--job-name NAME", line)
        return re.sub(r"(--output|-D) \S+", r"\1 PATH", line)


@pytest.fixture(scope="module")
def trial(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("trial")
    # Each submission is written down, and then made.
    recorder = folder / "commands" / "sbatch"
    recorder.parent.mkdir()
    real = cluster.run("which", "sbatch").strip()
    recorder.write_text(f'#!/bin/sh\necho "$@" >> {folder}/sbatch-calls\nexec {real} "$@"\n')
    recorder.chmod(recorder.stat().st_mode | stat.S_IXUSR)
    path = f"{recorder.parent}:{os.environ['PATH']}"
    options = ("--configfile", STUDY, "--config", f"results_dir={folder}/results")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--executor", "slurm", *options),
            *("--slurm-init-seconds-before-status-checks", "2"),
        ],
        cwd=ROOT,
        env={**cluster.environment(), "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stdout
    yield Trial(cluster, folder, options, done.stdout)


def test_every_cell_is_measured(trial: Trial) -> None:
    table = pd.read_csv(trial.results / "throughput.csv")
    cells = {(row.cluster, row.model, row.gpus) for row in table.itertuples()}
    expected = {("sphinx", size, 1) for size in SIZES}
    expected |= {("miso", size, 2) for size in SIZES} | {("miso", "nano", 8)}
    expected |= {("miso-pair", "nano", 2)}
    assert cells == expected
    assert set(table.status) == {"completed"}
    assert set(table.nodes[table.cluster == "miso-pair"]) == {2}
    assert (table.tokens_per_s > 0).all()
    assert set(table.attempts) == {1}


def test_tables_plots_and_report_are_made(trial: Trial) -> None:
    estimates = pd.read_csv(trial.results / "time_estimates.csv")
    assert list(estimates.basis) == ["Verified"] * 8 + ["Estimated by extrapolation"]
    for name in ("throughput.md", "time_estimates.md", "report.html", "figures/throughput.svg"):
        assert (trial.results / name).stat().st_size > 0


@pytest.mark.parametrize(
    ("place", "gpus", "expected"),
    [
        ("sphinx", 1, ("sphinx", "nlp", {"gres/gpu=1", "mem=48G", "node=1"})),
        ("miso", 8, ("miso", "miso", {"gres/gpu=8", "mem=200G", "node=1"})),
        ("miso-pair", 2, ("miso", "miso", {"gres/gpu=2", "mem=400G", "node=2"})),
    ],
)
def test_sacct_shows_what_the_guide_asks_for(
    trial: Trial, place: str, gpus: int, expected: tuple[str, str, set[str]]
) -> None:
    partition, account, resources = expected
    for cell in trial.grid.measured:
        if (cell.cluster, cell.gpus) != (place, gpus):
            continue
        record = trial.cluster.sacct(
            trial.job(cell), "Partition", "Account", "AllocTRES", "TimelimitRaw", "Comment"
        )
        assert (record["Partition"], record["Account"]) == (partition, account)
        assert resources <= set(record["AllocTRES"].split(","))
        assert record["TimelimitRaw"] == "30"
        comment = f"rule_train_wildcards_{cell.cluster}_{cell.model}_{cell.gpus}_base_42"
        assert record["Comment"] == comment


def test_sbatch_commands_are_these(trial: Trial) -> None:
    start = "--parsable --job-name NAME --output PATH --export=ALL --comment"
    common = "--open-mode=append --signal=USR1@60 -D PATH"
    assert trial.command("rule_train_wildcards_sphinx_nano_1_base_42") == (
        f"{start} rule_train_wildcards_sphinx_nano_1_base_42 -A nlp -p sphinx -t 30 --mem 49152 "
        f"--requeue --cpus-per-task=1 {common} --gres=gpu:1"
    )
    assert trial.command("rule_train_wildcards_miso_nano_8_base_42") == (
        f"{start} rule_train_wildcards_miso_nano_8_base_42 -A miso -p miso -t 30 --mem 204800 "
        f"--requeue --ntasks=1 --cpus-per-task=8 --gpus-per-task=8 {common}"
    )
    assert trial.command("rule_train_wildcards_miso-pair_nano_2_base_42") == (
        f"{start} rule_train_wildcards_miso-pair_nano_2_base_42 -A miso -p miso -t 30 "
        f"--mem 204800 --nodes=2 --requeue --ntasks=2 --cpus-per-task=1 --gpus-per-node=1 {common}"
    )
    names = re.findall(r"--job-name (\S+)", "\n".join(trial.commands))
    assert {"slurm-trial/nano/8", "slurm-trial/mini/2", "slurm-trial/tokenize"} <= set(names)
    assert all(name.startswith("slurm-trial/") for name in names)


def test_two_nodes_talk_over_the_network(trial: Trial) -> None:
    (cell,) = (cell for cell in trial.grid if cell.cluster == "miso-pair")
    summary = json.loads((trial.run_folder(cell) / "run.json").read_text())
    assert summary["hosts"] == ["miso1", "miso2"]
    assert summary["addresses"] == ["10.231.0.21", "10.231.0.22"]
    # The same batch on two processes of one node gives the same losses.
    (near,) = (c for c in trial.grid if (c.cluster, c.model, c.gpus) == ("miso", "nano", 2))
    curves = [
        [
            json.loads(line)["loss/out"]
            for line in (trial.run_folder(c) / "metrics.jsonl").read_text().splitlines()
        ]
        for c in (cell, near)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


def test_the_end_of_the_last_run_is_noticed_soon(trial: Trial) -> None:
    """By the note that its job leaves, not by the next question to Slurm."""
    attempts = [
        json.loads(path.read_text())["attempts"][-1] for path in trial.results.rglob("run.json")
    ]
    ended = max(datetime.fromisoformat(attempt["end"]) for attempt in attempts)
    when = re.findall(r"\[(.*?)\]\nFinished jobid: \d+ \(Rule: train\)", trial.output)[-1]
    took = (datetime.strptime(when, "%c").astimezone() - ended).total_seconds()
    assert took <= NOTICED_S


def test_only_seconds_of_tables_run_where_snakemake_runs(trial: Trial) -> None:
    local = set(re.findall(r"^localrule (\w+):", trial.output, re.MULTILINE))
    remote = set(re.findall(r"^rule (\w+):", trial.output, re.MULTILINE))
    # The corpus may be there from an earlier study.
    assert remote - {"corpus"} == {"tokenize", "train"}
    assert not local & {"corpus", "tokenize", "train"}
