"""Functions for the rules: the files of a source, and the options to tokenise it."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from study.grid import Grid
from study.jobs.workflow import text_files
from study.load import load_study
from trainer.config import parse_yaml

STUDY = """
study: test
models:
  tiny: {dim: 64, n_layers: 2, n_heads: 2}
clusters:
  here: {device: cpu, gpu_name: CPU core, gpus_per_node: 4}
corpora: []
run:
  steps: 20
  data: {sources: {src: 1.0}, batch_size: 8, seq_len: 64}
grid:
  - {cluster: here, model: tiny, gpus: 1}
"""


def grid(root: Path, corpora: tuple[str, ...] = (), **data: Any) -> Grid:
    (root / "src").mkdir(exist_ok=True)
    study = parse_yaml(STUDY, "study.yaml")
    study["corpora"] = list(corpora)
    study["run"]["data"] |= {"root_dir": str(root), **data}
    return Grid(load_study(study, "study.yaml"))


def test_a_source_has_the_files_that_the_trainer_reads(tmp_path: Path) -> None:
    made, folder = grid(tmp_path), tmp_path / "src"
    names = ["000_00000.parquet", "a.chunk.0.jsonl", "a.chunk.1.jsonl.gz", "a.chunk.2.jsonl.zst"]
    for name in [*names, "a.val.parquet", "notes.jsonl"]:
        (folder / name).touch()
    expected = [str(folder / name) for name in [*names, "a.val.parquet"]]
    assert text_files(made, "src") == expected
    (folder / "a.val.parquet").unlink()
    (tmp_path / "src.val.jsonl").touch()
    assert text_files(made, "src")[-1] == str(tmp_path / "src.val.jsonl")


def test_a_source_without_files_is_left_for_the_trainer_to_report(tmp_path: Path) -> None:
    assert text_files(grid(tmp_path), "src") == []


def test_a_corpus_of_ours_is_its_last_file(tmp_path: Path) -> None:
    made = grid(tmp_path, ("python_stdlib",), sources={"python_stdlib": 1.0})
    expected = [str(tmp_path / "python_stdlib" / "python_stdlib.val.jsonl")]
    assert text_files(made, "python_stdlib") == expected


@pytest.mark.parametrize("name", ["hf", "tiktoken", "sp"])
def test_the_tokenizers_file_is_one_of_them(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / "my tokenizer")
    made = grid(tmp_path, tokenizer={"name": name, "path": path, "n_words": 300}, add_bos=False)
    assert text_files(made, "src") == [path]
    assert shlex.split(made.tokenizing_options("src")) == [
        f"--tokenizer={name}",
        f"--tokenizer-path={path}",
        "--n-words=300",
        "--no-add-bos",
    ]
