"""The target `autotune`, through Snakemake itself."""

from pathlib import Path

import pytest
import yaml

from tests.workflow.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "study")
    workspace.study["grid"] = [{"cluster": "here", "model": "one", "gpus": 1}]
    workspace.study["run"]["distributed"]["compile"] = False
    workspace.write()
    return workspace


def test_settings_are_chosen_for_a_cell_that_was_never_trained(workspace: Workspace) -> None:
    assert "autotune_run" not in workspace.planned()  # not a part of `all`
    workspace.snakemake("--cores", "1", "autotune")
    (file,) = workspace.results.rglob("autotune.yaml")
    run = yaml.safe_load(file.with_name("autotune.settings.yaml").read_text())
    chosen = yaml.safe_load(file.read_text())
    sequences = run["data"]["batch_size"] * run["grad_acc_steps"]
    assert chosen["data"]["batch_size"] * chosen["grad_acc_steps"] == sequences
    assert "tokens/s" in file.with_name("autotune.log").read_text()
    assert not list(workspace.results.rglob("metrics.jsonl"))
    # As a variant they are settings that a run takes.
    workspace.study["variants"] = {"tuned": chosen}
    workspace.study["grid"][0]["variant"] = "tuned"
    workspace.write()
    assert workspace.planned()["train"] == 1
