"""A finished study: its files, and what is trained again after a change."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from tests.workflow.checkout import ROOT
from tests.workflow.workspace import Workspace


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
    """All tables are there, also if a table alone is asked for; `plan` trains nothing."""
    folder = done.run_folder("one")
    aside = folder.with_name("aside")
    folder.rename(aside)
    try:
        for target in ("all", "throughput", "time_estimates", "loss_curves", "report", "export"):
            assert done.planned(target)["train"] == 1, target
        assert "train" not in done.planned("plan")
        assert "train" not in done.planned("report", "--config", "partial=true")
        (aside / "completed").unlink()  # a flag that is missing follows from run.json
        aside.rename(folder)
        assert "Nothing to be done" in done.snakemake("-n")
    finally:
        if aside.exists():
            aside.rename(folder)


def test_what_a_run_does_not_depend_on_starts_no_job(changed: Workspace) -> None:
    changed.study["clusters"]["here"]["setup"] = ["true"]  # in the line that starts the trainer
    changed.study["run"]["distributed"]["timeout_s"] = 700
    changed.write()
    planned = changed.planned()
    assert "train" not in planned and planned["throughput"] == 1


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


def test_text_that_was_swapped_for_an_earlier_one_is_tokenised(done: Workspace) -> None:
    """`cp -p`, `rsync -a`, `tar` and links leave old times; nothing was to be done."""
    text = done.folder / "the data" / "text"
    aside = text.rename(done.folder / "set 1")
    try:
        text.symlink_to(shutil.copytree(aside, done.folder / "set 2"))
        planned = done.planned()
        assert (planned["tokenize"], planned["train"]) == (1, 2)
    finally:
        text.unlink(missing_ok=True)
        aside.rename(text)
    assert "Nothing to be done" in done.snakemake("-n")


def test_copied_results_are_up_to_date_in_any_order_of_their_times(
    done: Workspace, tmp_path: Path
) -> None:
    """`cp -r` keeps no times; a dry run announced all trainings, which Slurm would have queued."""
    copy = Workspace(tmp_path)
    shutil.copytree(done.results.parent, copy.results.parent)
    shutil.copytree(done.folder / "the data", copy.folder / "the data", dirs_exist_ok=True)
    (shards,) = copy.results.glob("data/*.json")
    shards.touch()
    assert "train" not in copy.planned("throughput")
    # It lists other text, as after an edit that was tokenised already.
    listed = json.loads(shards.read_text())
    shards.write_text(json.dumps(listed | {"key": "0" * 16}))
    assert copy.planned("throughput")["train"] == 2
    # Newer text, of which nobody knows whether it is the same.
    shards.write_text(json.dumps(listed))
    later = shards.stat().st_mtime + 1
    os.utime(next(copy.folder.glob("the data/text/*.chunk.*")), (later, later))
    planned = copy.planned("throughput")
    assert (planned["tokenize"], planned["train"]) == (1, 2)
