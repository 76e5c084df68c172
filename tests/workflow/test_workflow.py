"""The whole workflow, small, through Snakemake itself."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.cpu_time import cpu_s
from tests.waiting import wait_until
from tests.workflow.checkout import ROOT
from tests.workflow.workspace import Workspace, snakemake, start_snakemake


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished study, on more cores than one run takes."""
    workspace = Workspace(tmp_path_factory.mktemp("done"))
    workspace.snakemake("--cores", "4")
    return workspace


@pytest.fixture
def changed(done: Workspace) -> Iterator[Workspace]:
    """The finished study, whose file a test may change."""
    before = done.file.read_text()
    yield done
    done.file.write_text(before)
    done.study = yaml.safe_load(before)


def test_all_files_are_created(done: Workspace) -> None:
    made = {str(path.relative_to(done.results)) for path in done.results.rglob("*")}
    assert made >= {
        "throughput.csv", "throughput.md", "time_estimates.csv", "time_estimates.md",
        "report.html", "figures/loss_vs_tokens.svg", "figures/loss_vs_time.png",
        "figures/throughput.svg", "figures/scaling_efficiency.png", "leave_one_out.csv",
        *(f"figures/{name}_column.pdf" for name in ("loss_vs_steps", "loss_vs_flops")),
        *(f"figures/{name}_column.pdf" for name in ("estimates", "time_by_part")),
    }  # fmt: skip
    estimates = (done.results / "time_estimates.csv").read_text()
    assert estimates.count("Verified") == 2
    assert estimates.count("Estimated") == 1


def test_runs_on_one_machine_never_overlap(done: Workspace) -> None:
    spans = []
    for model in ("one", "two"):
        (attempt,) = json.loads((done.run_folder(model) / "run.json").read_text())["attempts"]
        spans.append([datetime.fromisoformat(attempt[key]) for key in ("start", "end")])
    (_, first_end), (second_start, _) = sorted(spans)
    assert first_end <= second_start


def test_each_process_has_its_share_of_the_cores(done: Workspace) -> None:
    """Snakemake gives the job all cores; more threads than cores would distort the measurement."""
    facts = json.loads((done.run_folder("one") / "run.json").read_text())
    assert facts["choices"]["threads"] == 1


def test_a_finished_study_has_nothing_to_do(done: Workspace) -> None:
    assert "Nothing to be done" in done.snakemake("--cores", "1")


def test_a_changed_model_trains_only_its_cells(changed: Workspace) -> None:
    changed.study["models"]["two"]["n_layers"] = 3
    changed.write()
    planned = changed.planned()
    assert planned["train"] == 1
    assert "gpus-1/base/seed-42/completed" in changed.snakemake("-n")
    assert "n_layers: 3" in changed.snakemake("-n", "-p")


def test_a_new_value_of_an_axis_trains_only_the_new_cells(changed: Workspace) -> None:
    changed.study["grid"][0]["gpus"] = [1, 2]
    changed.write()
    assert changed.planned()["train"] == 2


def test_an_expression_trains_only_the_cells_with_other_values(changed: Workspace) -> None:
    changed.study["run"] |= {"steps": "6 * gpus + 6", "optim": {"lr": "3e-3 / n_layers ** 0"}}
    changed.write()
    assert "train" not in changed.planned()
    changed.study["run"]["optim"]["lr"] = "3e-3 / n_layers"
    changed.write()
    plan = changed.snakemake("-n", "-p")
    assert set(re.findall(r"runs/here/(\w+)/gpus-1/base/seed-42/settings.yaml", plan)) == {"two"}


def test_a_deleted_table_is_recreated_without_training(done: Workspace) -> None:
    table = done.results / "throughput.csv"
    before = table.read_text()
    table.unlink()
    assert "train" not in done.planned()
    done.snakemake("--cores", "1")
    assert table.read_text() == before


@pytest.fixture
def without_memory() -> Iterator[None]:
    """Delete Snakemake's metadata, as in a new clone with old results."""
    memory = ROOT / ".snakemake" / "metadata"
    aside = memory.with_name("metadata-of-tests")
    memory.rename(aside)
    yield
    shutil.rmtree(memory, ignore_errors=True)
    aside.rename(memory)


@pytest.mark.usefixtures("without_memory")
def test_up_to_date_follows_from_the_files_of_runs(changed: Workspace) -> None:
    """Without .snakemake a changed setting and an added cell gave "Nothing to be done"."""
    out = changed.snakemake("-n")
    assert "train" not in changed.planned(), out
    changed.study["run"]["steps"] = 14
    changed.write()
    assert changed.planned()["train"] == 2
    changed.study["run"]["steps"] = 12
    changed.write()
    assert "train" not in changed.planned()  # what ran with these settings is still there
    changed.study["grid"][0]["gpus"] = [1, 2]
    changed.write()
    assert changed.planned()["train"] == 2


@pytest.mark.usefixtures("without_memory")
def test_a_changed_study_recreates_its_tables(changed: Workspace) -> None:
    changed.study["estimate"] = {"steps": 77}
    changed.write()
    planned = changed.planned()
    assert "train" not in planned
    assert planned["time_estimates"] == 1


def test_a_deleted_run_is_trained_again(done: Workspace) -> None:
    """All tables are there; `all` asks for the runs too."""
    folder = done.run_folder("one")
    aside = folder.with_name("aside")
    folder.rename(aside)
    try:
        assert done.planned()["train"] == 1
        (aside / "completed").unlink()  # a flag that is missing follows from run.json
        aside.rename(folder)
        assert "Nothing to be done" in done.snakemake("-n")
    finally:
        if aside.exists():
            aside.rename(folder)


def test_moved_results_are_up_to_date(done: Workspace, tmp_path: Path) -> None:
    """Every run was left out, because paths were part of its fingerprint."""
    moved = Workspace(tmp_path)
    moved.study["run"]["data"]["root_dir"] = done.study["run"]["data"]["root_dir"]
    moved.write()
    shutil.copytree(done.results.parent, moved.results.parent)
    assert "train" not in moved.planned("throughput")
    output = moved.snakemake("--cores", "1", "throughput")
    assert "settings have changed" not in output
    assert (moved.results / "throughput.md").read_text().count("completed") == 2


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
    workspace.study["variants"] = {"broken": {"checkpoint": {"init_ckpt_path": "nowhere"}}}
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
        output, _ = process.communicate(timeout=60)
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


def test_an_interrupted_study_resumes(tmp_path: Path) -> None:
    """Ctrl-C: Snakemake, torchrun and the trainer receive SIGINT."""
    workspace = Workspace(tmp_path)
    workspace.study["run"] |= {"steps": 300, "checkpoint": {"dump": {"every": 20}}}
    workspace.write()
    folder = workspace.run_folder("one")
    target = str(folder / "completed")
    arguments = ("--cores", "1", "--retries", "0", target, "--configfile", str(workspace.file))
    with start_snakemake(*arguments) as process:
        wait_until(lambda: any(folder.glob("checkpoints/[0-9]*20")), "it saves step 20")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert json.loads((folder / "run.json").read_text())["status"] != "completed"
    workspace.snakemake("--cores", "1", target)
    facts = json.loads((folder / "run.json").read_text())
    assert facts["status"] == "completed"
    assert facts["attempts"][-1]["first_step"] >= 21


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


def test_decays_start_from_checkpoints_of_a_run_that_is_trained_once(tmp_path: Path) -> None:
    """A decay has the losses of a run trained through, bit for bit."""
    workspace = Workspace(tmp_path)
    optim = {"lr": 3e-3, "warmup": 2, "scheduler": "wsd", "decay_fraction": 0.5}
    workspace.study["run"] |= {"optim": optim, "logging": {"freq": 1}}
    workspace.study["variants"] = {
        "stable": {"steps": 16, "checkpoint": {"dump": {"every": 2, "keep": 0}}},
        "decay": {},
        "through": {},
    }
    cells = {"cluster": "here", "model": "one", "gpus": 1}
    start = {"cell": "stable", "at": "steps / 2"}
    workspace.study["grid"] = [
        {**cells, "variant": "decay", "steps": [4, 8, 12], "from": start},
        {**cells, "variant": "through", "steps": [4, 8, 12]},
        {**cells, "variant": "stable"},
    ]
    workspace.write()
    folder = workspace.run_folder("one").parents[1]
    both = [f"{variant}+steps-{steps}" for variant in ("decay", "through") for steps in (4, 8, 12)]
    names = ["stable", *both]
    flags = [str(folder / name / "seed-42" / "completed") for name in names]
    workspace.snakemake("--cores", "1", *flags)

    def losses(name: str) -> list[tuple[int, float]]:
        lines = (folder / name / "seed-42" / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        return [(record["global_step"], record["loss/out"]) for record in records]

    for steps in (4, 8, 12):
        decay = losses(f"decay+steps-{steps}")
        assert [step for step, _ in decay] == list(range(steps // 2 + 1, steps + 1))
        assert decay == losses(f"through+steps-{steps}")[steps // 2 :]
        assert decay != losses("stable")[steps // 2 : steps]
    workspace.study["variants"]["stable"]["optim"] = {"clip": 0.5}
    workspace.write()
    plan = workspace.snakemake("-n", *flags)
    assert set(re.findall(r"runs/here/one/gpus-1/([^/]+)/seed-42/attempt.log", plan)) == {
        *("stable", "decay+steps-4", "decay+steps-8", "decay+steps-12"),
    }


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
    inputs = re.findall(r"input: (\S+)\n +output: \S+runs/there/one", plan)
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
        launch = f"torchrun --nproc_per_node={gpus} --standalone -m trainer "
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
    assert "budget.gpu_hours: 2 cells are estimated at" in output
    assert "to launch them anyway: --config confirm=small" in output
    assert "Traceback" not in output
    assert not list(workspace.results.rglob("metrics.jsonl"))


def test_rules_are_listed_with_their_docstrings() -> None:
    listed = snakemake("--list-rules").stdout
    for rule in ("throughput", "time_estimates", "loss_curves", "report", "plan", "train"):
        assert re.search(rf"^{rule} \(\w", listed, re.MULTILINE), listed
