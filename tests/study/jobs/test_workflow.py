"""Functions for the rules: the files of a source, and the options to tokenise it."""

import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np  # its BLAS is looked for
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from study.grid import Grid
from study.jobs import workflow
from study.jobs.workflow import code, load_config, text_files
from study.load import load_study
from trainer.problems import ConfigError
from trainer.yaml_files import parse_yaml

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
    if not list((root / "src").iterdir()):
        (root / "src" / "src.chunk.00.jsonl").touch()
    study = parse_yaml(STUDY, "study.yaml")
    study["corpora"] = list(corpora)
    study["run"]["data"] |= {"root_dir": str(root), **data}
    return Grid(load_study(study, "study.yaml"))


def test_a_stage_depends_on_its_newest_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on those of other wings, and on no file that is none of its sources."""
    monkeypatch.setattr(workflow, "PROJECT", tmp_path)
    for number, name in enumerate(
        ("grid.py", "measure/a.py", "show/page.js", "measure/b.py", "show/b.pyc", "law/law.py")
    ):
        path = tmp_path / "study" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (number, number))
    for wings, newest in (
        (["measure"], "measure/b.py"),
        (["show"], "show/page.js"),
        ([], "grid.py"),
    ):
        assert code(*wings) == str(tmp_path / "study" / newest)


def test_a_source_has_the_files_that_the_trainer_reads(tmp_path: Path) -> None:
    made, folder = grid(tmp_path), tmp_path / "src"
    (folder / "src.chunk.00.jsonl").unlink()
    names = ["000_00000.parquet", "a.chunk.0.jsonl", "a.chunk.1.jsonl.gz", "a.chunk.2.jsonl.zst"]
    for name in [*names, "a.val.parquet", "notes.jsonl"]:
        (folder / name).touch()
    expected = [str(folder / name) for name in [*names, "a.val.parquet"]]
    assert text_files(made, "src") == expected
    (folder / "a.val.parquet").unlink()
    (tmp_path / "src.val.jsonl").touch()
    assert text_files(made, "src")[-1] == str(tmp_path / "src.val.jsonl")


def test_a_megatron_file_comes_with_its_index(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for name in ("a.bin", "a.idx", "b.val.bin", "b.val.idx", "c.bin"):
        (tmp_path / "src" / name).touch()
    expected = [
        str(tmp_path / "src" / name) for name in ("a.bin", "a.idx", "b.val.bin", "b.val.idx")
    ]
    assert text_files(grid(tmp_path), "src") == expected


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], "found nothing; expected files named like src.chunk.00.jsonl (or .jsonl.gz, "),
        (["train.jsonl", "data.txt"], "found data.txt, train.jsonl; expected files named like "),
        (["a.val.jsonl"], "found a.val.jsonl; expected files named like src.chunk.00.jsonl"),
        (["a.chunk.0.jsonl", "a.chunk.0.jsonl.gz"], "found a.chunk.0.jsonl and a.chunk.0.jsonl.gz"),
    ],
)
def test_files_with_wrong_names_are_found_at_planning(
    tmp_path: Path, names: list[str], found: str
) -> None:
    """Once, under the source's key, for all cells of the study."""
    (tmp_path / "src").mkdir()
    for name in names:
        (tmp_path / "src" / name).touch()
    study = parse_yaml(STUDY, "study.yaml")
    study["run"]["data"]["root_dir"] = str(tmp_path)
    study["grid"] = [{"cluster": "here", "model": "tiny", "gpus": 1, "seed": [1, 2, 3]}]
    with pytest.raises(ConfigError) as caught:
        load_study(study, "study.yaml")
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"run.data.sources.src: {tmp_path}/src: {found}")


def test_validation_without_held_out_text_is_found_at_planning(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.chunk.0.jsonl").touch()
    study = parse_yaml(STUDY, "study.yaml")
    study["run"] |= {"data": {**study["run"]["data"], "root_dir": str(tmp_path)}, "eval": {}}
    with pytest.raises(ConfigError) as caught:
        load_study(study, "study.yaml")
    (problem,) = caught.value.problems
    assert str(problem) == (
        f"run.eval: found no held-out text in {tmp_path}/src; expected a file named like "
        "*.val.jsonl there, or eval: null"
    )
    (tmp_path / "src.val.jsonl").touch()
    load_study(study, "study.yaml")
    (tmp_path / "src.val.jsonl").unlink()
    study["corpora"] = ["python_stdlib"]  # which comes with held-out text
    study["run"]["data"]["sources"] = {"src": 1.0, "python_stdlib": 0.5}
    load_study(study, "study.yaml")


def test_a_source_of_weight_0_is_neither_wanted_nor_tokenised(tmp_path: Path) -> None:
    made = grid(tmp_path, sources={"src": 1.0, "missing": 0, "python_stdlib": 0.0})
    assert list(made.sources) == ["src"]
    assert made[0].fingerprint == grid(tmp_path)[0].fingerprint


def test_a_corpus_of_ours_is_its_last_file(tmp_path: Path) -> None:
    made = grid(tmp_path, ("python_stdlib",), sources={"python_stdlib": 1.0})
    expected = [str(tmp_path / "python_stdlib" / "python_stdlib.val.jsonl")]
    assert text_files(made, "python_stdlib") == expected


@pytest.mark.parametrize("name", ["hf", "tiktoken", "sp"])
def test_the_tokenizers_file_is_one_of_them(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / "my tokenizer")
    made = grid(tmp_path, tokenizer={"name": name, "path": path, "n_words": 300}, add_bos=False)
    assert text_files(made, "src") == [str(tmp_path / "src" / "src.chunk.00.jsonl"), path]
    assert shlex.split(made.tokenizing_options("src")) == [
        f"--tokenizer={name}",
        f"--tokenizer-path={path}",
        "--n-words=300",
        "--no-add-bos",
    ]


def test_planning_uses_one_blas_thread() -> None:
    with threadpool_limits(2, user_api="blas"):
        assert {pool["num_threads"] for pool in blas()} == {2}, np.__version__
        load_config([], [])
        assert {pool["num_threads"] for pool in blas()} == {1}


def blas() -> list[dict[str, Any]]:
    return [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
