"""The doors between the rooms: who may import whom, and what planning may load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUDY_MAY_IMPORT = {
    f"trainer.{name}"
    for name in (
        *("choices", "config", "files", "flops", "layers", "optimizers", "problems", "records"),
        *("settings", "text_files", "yaml_files"),
    )
}
"""What of the trainer needs no torch, and the study may know."""

TORCH_FREE = ["choices", "config", "context", "data", "documents", "files", "flops", "kinds"]
TORCH_FREE += ["layers", "learning_rate", "machine_load", "optimizers", "packing", "pieces"]
TORCH_FREE += ["problems", "records", "settings", "shards", "shard_folder", "startup", "text_files"]
TORCH_FREE += ["tokenizer", "tokenizer_files", "vocabulary", "yaml_files"]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted((ROOT / "trainer").glob("*.py")), ids=lambda p: p.name)
def test_the_trainer_knows_no_grids_and_no_clusters(path: Path) -> None:
    for module in imports(path):
        assert module.split(".")[0] not in {"study", "snakemake"}
        assert module.split(".")[0] != "multiprocessing", "no start method, no manager process"
    # The docstring of parallel.py names them to say why they are not read.
    code = ast.unparse(ast.parse(path.read_text()).body[1:])  # type: ignore[arg-type]
    assert "SLURM" not in code
    assert "set_start_method" not in code


@pytest.mark.parametrize("name", TORCH_FREE)
def test_parts_of_the_trainer_need_no_torch(name: str) -> None:
    assert not any(m.split(".")[0] == "torch" for m in imports(ROOT / "trainer" / f"{name}.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "study").glob("*.py")), ids=lambda p: p.name)
def test_the_study_knows_little_of_the_trainer(path: Path) -> None:
    for module in imports(path):
        assert module.split(".")[0] != "torch"
        if module.startswith("trainer."):
            assert ".".join(module.split(".")[:2]) in STUDY_MAY_IMPORT


def test_planning_loads_neither_torch_nor_matplotlib_nor_pandas() -> None:
    program = (
        "import sys; from study.jobs.workflow import load_config, Grid; "
        "Grid(load_config([], [])); "
        "print([m for m in ('torch', 'matplotlib', 'pandas', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
