"""The targets `export` and `evaluate`, through Snakemake itself."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from tests.workflow.workspace import Workspace, snakemake

FAKE = r"""#!/usr/bin/env python3
import json, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--output_path") + 1])
assert not list(folder.glob("*")), "an evaluation starts with an empty folder"
print("evaluated")
if "broken" in sys.argv[sys.argv.index("--tasks") + 1]:
    sys.exit("no such task")
folder.mkdir(parents=True, exist_ok=True)
(folder / "results.json").write_text(json.dumps(sys.argv[1:]))
"""


@pytest.fixture
def lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an lm_eval on the PATH that records its arguments."""
    program = tmp_path / "bin" / "lm_eval"
    program.parent.mkdir()
    program.write_text(FAKE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "study")
    workspace.study["run"]["steps"] = 4
    workspace.study["grid"] = [
        {"cluster": "here", "model": "one", "gpus": 1},
        {"cluster": "here", "model": "big", "gpus": 2, "measure": False},
    ]
    workspace.study["evaluate"] = {"tasks": ["hellaswag", "arc_easy"], "limit": 10}
    workspace.write()
    return workspace


def test_measured_cells_are_exported_and_evaluated(workspace: Workspace, lm_eval: None) -> None:
    assert "export_run" not in workspace.planned()  # not a part of `all`
    workspace.snakemake("--cores", "1", "evaluate")
    assert not list(workspace.results.rglob("big"))
    folder = workspace.run_folder("one")
    export = folder / "export"
    model = LlamaForCausalLM.from_pretrained(export)
    tokens = AutoTokenizer.from_pretrained(export)("def f(x):", return_tensors="pt")
    assert torch.isfinite(model(**tokens).logits).all()
    arguments = json.loads((folder / "evaluation" / "results.json").read_text())
    assert arguments == [
        *("--model", "hf", "--tasks", "hellaswag,arc_easy", "--limit", "10"),
        *("--model_args", f"pretrained={export},tokenizer={export},add_bos_token=True"),
        *("--output_path", str(folder / "evaluation")),
    ]
    assert (folder / "evaluation.log").read_text() == "evaluated\n"
    assert workspace.planned("evaluate") == {}
    # Other tasks: another evaluation of the same export.
    workspace.study["evaluate"] = {"tasks": ["piqa"]}
    workspace.write()
    assert set(workspace.planned("evaluate")) == {"evaluate_run", "evaluate"}
    workspace.snakemake("--cores", "1", "evaluate")
    arguments = json.loads((folder / "evaluation" / "results.json").read_text())
    assert arguments[:4] == ["--model", "hf", "--tasks", "piqa"]
    assert "--limit" not in arguments
    # An evaluation that fails leaves the run and its export, and no half-made folder.
    workspace.study["evaluate"] = {"tasks": ["broken"]}
    workspace.write()
    output = workspace.snakemake("--cores", "1", "--retries", "0", "evaluate", check=False)
    assert "no such task" in output
    assert not (folder / "evaluation").exists()
    assert (export / "model.safetensors").exists()


def test_an_export_outlives_its_checkpoints_in_a_copy(workspace: Workspace, tmp_path: Path) -> None:
    """In a copy with other times, where Snakemake remembers nothing, it was deleted to be made
    again, from checkpoints that had been deleted to save space."""
    workspace.snakemake("--cores", "1", "export")
    copy = Workspace(tmp_path / "copy")
    copy.study |= {key: workspace.study[key] for key in ("run", "grid")}
    copy.write()
    shutil.copytree(workspace.results.parent, copy.results.parent)
    folder = copy.run_folder("one")
    (folder / "completed").touch()
    assert copy.planned("export")["export_run"] == 1  # it can be made again
    shutil.rmtree(folder / "checkpoints")
    assert "export_run" not in copy.planned("export")
    copy.snakemake("--cores", "1", "export")
    assert (folder / "export" / "model.safetensors").exists()
    copy.study["run"]["steps"] = 5  # another run, which has to be exported
    copy.write()
    assert copy.planned("export")["export_run"] == 1


def test_a_partial_study_exports_its_finished_runs(workspace: Workspace) -> None:
    assert "train" not in workspace.planned("export", "--config", "partial=true")
    assert workspace.planned("export")["train"] == 1


def test_what_an_evaluation_lacks_is_reported_before_anything_runs(workspace: Workspace) -> None:
    del workspace.study["evaluate"]
    workspace.write()
    done = snakemake("--cores", "1", "evaluate", "--configfile", str(workspace.file))
    assert done.returncode == 1
    assert "evaluate.tasks: found none; expected tasks, such as [hellaswag, " in done.stdout
    assert "lm_eval: not on the PATH; run `pip install lm_eval[hf]`" in done.stdout
    assert "Traceback" not in done.stdout
    assert not workspace.results.exists()
    assert "evaluate" not in workspace.planned()  # other targets ask for none of it
