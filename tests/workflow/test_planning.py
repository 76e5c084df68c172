"""Planning: mistakes in a study, the jobs and commands that it gives, and the time it takes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cpu_time import cpu_s
from tests.workflow.checkout import ROOT
from tests.workflow.workspace import Workspace, snakemake


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"gird": []}, "gird: unknown key; did you mean 'grid'?"),
        ({"grid": [{"cluster": "here", "model": "on", "gpus": 1}]}, "unknown model 'on'; did you"),
        ({"grid": [{"cluster": "here", "model": "one", "gpus": 0}]}, "grid[0].gpus[0]: found 0"),
        (
            {"grid": [{"cluster": "here", "model": "one", "gpus": [1, 1]}]},
            "already in grid[0]",
        ),
        ({"run": {"steps": 1, "optim": {"warmup": 2}}}, "optim.warmup = 2 is more than steps = 1"),
        ({"models": {"one": {"dim": 32, "n_layers": 1, "n_heads": 5}}}, "does not divide dim = 32"),
    ],
)
def test_a_mistake_ends_planning_with_one_message(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    workspace = Workspace(tmp_path)
    for key, value in change.items():
        both_mappings = isinstance(value, dict) and isinstance(workspace.study.get(key), dict)
        workspace.study[key] = {**workspace.study[key], **value} if both_mappings else value
    workspace.write()
    done = snakemake("-n", "--configfile", str(workspace.file))
    assert done.returncode == 1
    assert f"{workspace.file}: " in done.stdout
    assert expected in done.stdout
    assert "Traceback" not in done.stdout
    assert 'File "' not in done.stdout


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (
            "partial: false\npartial: true\n",
            r"line \d+: partial: duplicate key; first given on line",
        ),
        ("partial: yes\n", r"line \d+: partial: found 'yes'; expected true or false"),
        ("budget: {gpu_hours: 1_0}\n", r"line \d+: budget\.gpu_hours: found '1_0'; "),
        (
            "variants: {v: {steps: 3e0, optim: {warmup: 0o5}}}\n",
            r"line \d+: variants\.v\.optim\.warm",
        ),
    ],
)
def test_both_commands_read_a_file_alike(tmp_path: Path, extra: str, told: str) -> None:
    """Snakemake reads the file too, as YAML 1.1, and lets duplicate keys pass."""
    workspace = Workspace(tmp_path)
    workspace.study["grid"][0]["variant"] = ["base", "v"] if "variants" in extra else "base"
    workspace.write()
    workspace.file.write_text(workspace.file.read_text() + extra)
    planned = subprocess.run(
        [sys.executable, "-m", "study", "plan", "--study", str(workspace.file)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert re.fullmatch(rf"{workspace.file}: 1 problem\n  {told}.*\n", planned.stderr)
    assert workspace.snakemake("-n", check=False).endswith(planned.stderr)


def test_the_command_line_overrides_the_file_and_is_named_in_problems(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    plan = workspace.snakemake("--cores", "1", "plan", "--config", "run={steps: 1e1}")
    (row,) = [line for line in plan.splitlines() if line.startswith("here/one/gpus-1/base")]
    assert re.search(r" 128 +10 +to run", row), row
    wrong = workspace.snakemake("-n", "--config", "run={optim: {warmup: 13}}", check=False)
    told = "command line: 1 problem\n  run.optim.warmup = 13 is more than steps = 12\n"
    assert wrong.endswith(told)


def test_a_missing_data_folder_ends_planning(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.study["run"]["data"]["root_dir"] = str(tmp_path / "nowhere")
    workspace.write()
    done = snakemake("-n", "--configfile", str(workspace.file))
    assert done.returncode == 1
    assert f"the folder {tmp_path}/nowhere/text does not exist" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_corpus_is_written_into_a_folder_with_a_space(tmp_path: Path) -> None:
    """The command as planned, run by a shell with a program that tells what it is given."""
    workspace = Workspace(tmp_path)
    workspace.study |= {"corpora": ["python_stdlib"]}
    workspace.study["run"]["data"]["sources"] = {"python_stdlib": 1.0}
    workspace.write()
    planned = workspace.snakemake("-n", "-p")
    (command,) = re.findall("python -m study corpus .*", planned)
    tell = f"python() {{ printf '%s|' \"$@\"; }}; {command}"
    subprocess.run(["bash", "-c", tell], check=True)
    folder = tmp_path / "the data"
    given = (folder / "python_stdlib.log").read_text().split("|")
    assert given[2:] == [
        "corpus",
        "--name",
        "python_stdlib",
        "--output",
        f"{folder}/python_stdlib",
        "",
    ]


def test_swept_cells_wait_for_the_text_of_their_cluster(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    shutil.copytree(tmp_path / "the data", tmp_path / "other")
    workspace.study["clusters"]["there"] = workspace.study["clusters"]["here"]
    other = {"data": {"root_dir": str(tmp_path / "other")}}
    workspace.study["clusters_run"] = {"there": other}
    workspace.study["grid"] = [
        {
            "cluster": ["here", "there"],
            "model": "one",
            "gpus": 1,
            "tokens": "1N",
            "sweep": {"optim.lr": [1e-3, 2e-3]},
        }
    ]
    workspace.write()
    plan = workspace.snakemake("-n", "-p")
    roots = set(re.findall(r"--root-dir '?([^'\n]*?)'? --source", plan))
    assert roots == {str(tmp_path / "the data"), str(tmp_path / "other")}
    for cluster in ("here", "there"):
        for rate in ("0.001", "0.002"):
            name = f"tokens-1N+lr-{rate}"
            assert f"runs/{cluster}/one/gpus-1/{name}/seed-42/settings.yaml" in plan
    (listed,) = re.findall(r"/data/(\w{6}/text)\.json", plan)[:1]
    inputs = re.findall(r"input: (.+)\n +output: .+runs/there/one", plan)
    assert len(inputs) == 2 and all(path.endswith(f"/data/{listed}.json") for path in inputs)


def test_yaml_that_does_not_parse_ends_planning(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("study: [1\n")
    done = snakemake("-n", "--configfile", str(broken))
    assert done.returncode == 1
    assert "not valid JSON or YAML" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_reference_study_plans_the_guides_commands() -> None:
    done = snakemake("-n", "-p", "--configfile", "config/studies/lingua.yaml")
    assert done.returncode == 0, done.stdout
    runs = "results/lingua/runs"
    for gpus, folder in ((1, "sphinx/small/gpus-1"), (8, "miso/small/gpus-8")):
        launch = f"torchrun --nproc_per_node={gpus} --standalone --local-addr=localhost -m trainer "
        assert f"{launch}config={runs}/{folder}/base/seed-42/settings.yaml" in done.stdout
    assert re.search(r"^train +2$", done.stdout, re.MULTILINE)


def cpu_seconds(*arguments: str) -> float:
    def run() -> None:
        assert snakemake(*arguments).returncode == 0

    return cpu_s(run)


@pytest.mark.parametrize(("options", "limit"), [("-n", 2), ("--list-rules", 1.5)])
def test_a_study_adds_little_to_snakemakes_own_start(
    options: str, limit: float, tmp_path: Path
) -> None:
    """In multiples of an empty workflow's CPU time, the least of several: machines differ in speed.

    Snakemake's own start is about a second. Each job on Slurm reads the Snakefile twice more.
    """
    empty = tmp_path / "Snakefile"
    empty.write_text("rule all:\n    shell: 'true'\n")
    turns = [
        (cpu_seconds(options), cpu_seconds("--snakefile", str(empty), options)) for _ in range(4)
    ]
    ours, theirs = (min(values) for values in zip(*turns, strict=True))
    assert ours < limit * theirs


def test_a_launch_above_its_budget_stops_before_anything_is_trained(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.study["clusters"]["here"]["peak_tflops"] = 0.05
    workspace.study["budget"] = {"gpu_hours": 1e-4}
    workspace.write()
    output = workspace.snakemake("--cores", "all", check=False)
    assert "budget.gpu_hours: 2 to train, estimated at" in output
    assert "to launch them anyway: --config confirm=small" in output
    assert "Traceback" not in output
    assert not list(workspace.results.rglob("metrics.jsonl"))


def test_rules_are_listed_with_their_docstrings() -> None:
    listed = snakemake("--list-rules").stdout
    for rule in ("throughput", "time_estimates", "loss_curves", "report", "plan", "train"):
        assert re.search(rf"^{rule} \(\w", listed, re.MULTILINE), listed
