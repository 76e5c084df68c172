"""A small study whose grid a test replaces, and the cells or problems that this gives."""

from typing import Any

import pytest

from study.grid import Grid
from study.load import load_study
from trainer.layers import merge
from trainer.problems import ConfigError
from trainer.yaml_files import parse_yaml

GRID_STUDY = """
study: test
models:
  tiny: {dim: 64, n_layers: 2, n_heads: 2}
  wide: {dim: 128, n_layers: 2, n_heads: 4}
clusters:
  here: {device: cpu, gpu_name: CPU core, gpus_per_node: 4}
corpora: [python_stdlib]
run:
  steps: 20
  data: {root_dir: data, sources: {python_stdlib: 1.0}, batch_size: 8, seq_len: 64}
variants:
  hot: {optim: {lr: 1.0e-2}}
grid:
  - {cluster: here, model: [tiny, wide], gpus: [1, 2]}
"""

# tiny: 2 * (4*64*64 + 3*64*256 + 2*64) + 64 = 131,392 in blocks and norms; 258*64 = 16,512 in the
# embedding and as many in the output matrix. wide: 524,928 and 33,024.
TINY_PARAMS, WIDE_PARAMS = 164_416, 590_976

ONE = {"cluster": "here", "model": "tiny", "gpus": 1}
"""The smallest block of its grid: one cell."""


def problems(data: dict[str, Any]) -> list[str]:
    """Return what is wrong with a study."""
    with pytest.raises(ConfigError) as caught:
        load_study(data, "study.yaml")
    return [str(problem) for problem in caught.value.problems]


def grid_of(*entries: dict[str, Any], **changes: Any) -> Grid:
    """Return the grid of blocks that differ from the smallest one, in a changed study."""
    values = merge(parse_yaml(GRID_STUDY, "study.yaml"), changes)
    return Grid(load_study({**values, "grid": [{**ONE, **entry} for entry in entries]}))


def problems_of(*entries: dict[str, Any]) -> list[str]:
    """Return what is wrong with blocks that differ from the smallest one."""
    values = parse_yaml(GRID_STUDY, "study.yaml")
    return problems({**values, "grid": [{**ONE, **entry} for entry in entries]})
