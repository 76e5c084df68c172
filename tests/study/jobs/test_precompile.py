"""Which cells share compiled code, and the settings to compile it with."""

from typing import Any

import pytest

from study.grid import Cell, Grid
from study.jobs.precompile import precompile_folder, precompile_run
from study.load import load_study
from trainer.config import RunConfig
from trainer.yaml_files import parse_yaml

STUDY = """
study: test
corpora: [python_stdlib]
models:
  tiny: {dim: 64, n_layers: 2, n_heads: 2}
  wide: {dim: 128, n_layers: 2, n_heads: 4}
clusters:
  here: {gpu_name: H200, peak_tflops: 989.5, gpus_per_node: 4}
  far:
    gpu_name: H200
    peak_tflops: 989.5
    gpus_per_node: 4
    slurm: {partition: far, gpu_request: gres, mem_gib: 4, runtime_min: 10}
run:
  steps: 20
  data: {root_dir: data, sources: {python_stdlib: 1.0}, batch_size: 8, seq_len: 64}
variants:
  hot: {optim: {lr: 1.0e-2}, steps: 40, checkpoint: null}
  short: {data: {seq_len: 32}}
  eager: {distributed: {compile: false}}
  spread: {distributed: {fsdp_type: full_shard}}
  fp32: {distributed: {model_dtype: fp32}}
grid:
  - {cluster: far, model: [tiny, wide], gpus: [1, 4], seed: [1, 2]}
  - {cluster: far, model: tiny, gpus: [1, 4], variant: [hot, short, eager, spread, fp32]}
  - {cluster: here, model: tiny, gpus: [1, 4]}
"""


@pytest.fixture
def cells() -> dict[str, Cell]:
    grid = Grid(load_study(parse_yaml(STUDY, "study.yaml"), "study.yaml"))
    return {
        f"{cell.cluster} {cell.model} {cell.gpus} {cell.variant} {cell.seed}": cell for cell in grid
    }


def test_cells_that_compile_the_same_share_a_folder(cells: dict[str, Cell]) -> None:
    shared = {
        precompile_folder(cells[f"far tiny {gpus} base {seed}"])
        for gpus in (1, 4)
        for seed in (1, 2)
    }
    shared |= {precompile_folder(cells[f"far tiny {gpus} hot 42"]) for gpus in (1, 4)}
    (folder,) = shared
    assert folder is not None
    assert folder.startswith("precompile/far/tiny-")
    others = [cells[name] for name in ("far wide 1 base 1", "far tiny 1 short 42")]
    others.append(cells["far tiny 1 fp32 42"])
    assert len({folder, *map(precompile_folder, others)}) == 4


@pytest.mark.parametrize(
    "name",
    [
        "far tiny 1 eager 42",  # nothing to compile
        "far tiny 4 spread 42",  # one process cannot compile it
        "here tiny 1 base 42",  # runs take turns: the first one warms up the others
    ],
)
def test_nothing_is_precompiled(cells: dict[str, Cell], name: str) -> None:
    assert precompile_folder(cells[name]) is None


def test_cells_that_share_a_folder_have_the_same_settings(cells: dict[str, Cell]) -> None:
    first, other = cells["far tiny 1 base 1"], cells["far tiny 4 hot 42"]
    run = precompile_run(first)
    assert run == precompile_run(other)
    assert run.distributed.compile is True
    assert (run.device, run.gpu_name) == (first.run.device, first.run.gpu_name) == ("cuda", "H200")
    assert run.distributed.compile_cache == first.run.distributed.compile_cache
    assert (run.model, run.data.batch_size, run.data.seq_len) == (first.run.model, 8, 64)
    # The trainer takes them.
    read: dict[str, Any] = parse_yaml(run.to_yaml(), "run.yaml")
    assert RunConfig.model_validate(read) == run
