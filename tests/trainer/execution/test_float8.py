"""Matrices in float8, which torchao multiplies on a CPU too."""

import sys
from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import Runs, long, losses
from tests.trainer.small_runs import run_config
from trainer.execution import float8
from trainer.model.linear import Linear
from trainer.model.model import Transformer
from trainer.problems import ConfigError


@pytest.mark.parametrize("recipe", ["tensorwise", pytest.param("rowwise", marks=long)])
def test_float8_stays_near_bf16(runs: Runs, recipe: str) -> None:
    """What float8 rounds off shows, and is small."""
    settings = ("model.dim=64", "distributed.model_dtype=bf16", "eval=null")
    runs.run(f"dump_dir={runs.out('bf16')}", *settings)
    runs.run(f"dump_dir={runs.out('float8')}", f"distributed.float8_recipe={recipe}", *settings)
    wide, narrow = ([loss for _, loss in losses(runs.out(name))] for name in ("bf16", "float8"))
    assert narrow == pytest.approx(wide, abs=0.03)
    assert narrow != wide


def test_torchao_that_is_missing_is_told_before_the_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ConfigError, match=r"float8_recipe: needs torchao \(pip install torchao\)"):
        float8.check(run_config(tmp_path, distributed={"float8_recipe": "rowwise"}))


@pytest.mark.parametrize(
    ("model", "pattern", "expected"),
    [
        ({"dim": 64}, r"blocks\.", r"float8_filter = blocks\\.: found no .*wq \(64 x 64\)"),
        ({"dim": 64}, "output", r"float8_filter = output: found no matrix"),
        ({"dim": 40, "multiple_of": 1}, "layers", r"multiples of 16; .*layers.0.*wq \(40 x 40\)"),
    ],
)
def test_float8_of_no_matrix_is_refused(
    tmp_path: Path, model: dict, pattern: str, expected: str
) -> None:
    settings = {"float8_recipe": "rowwise", "float8_filter": pattern}
    with pytest.raises(ConfigError, match=expected):
        float8.check(run_config(tmp_path, model=model, distributed=settings))


def test_float8_is_for_the_blocks(tmp_path: Path) -> None:
    """The loss reads the output matrix, in any format, from the module's weight."""
    settings = {"float8_recipe": "rowwise", "float8_filter": "w[12]|output"}
    config = run_config(tmp_path, distributed=settings)
    float8.check(config)
    model = Transformer(config.model, 272, 16, fused=False)
    float8.convert(model, config.distributed, torch.device("cpu"))
    others = {name for name, module in model.named_modules() if type(module) is Linear}
    kept = [f"attention.{name}" for name in ("wq", "wk", "wv", "wo")] + ["feed_forward.w3"]
    assert others == {"output", *(f"layers.{n}.{name}" for n in range(2) for name in kept)}
