"""Matrices in float8, which torchao multiplies on a CPU too."""

import sys
from pathlib import Path

import pytest

from tests.trainer.conftest import Runs, long, losses
from tests.trainer.small_runs import run_config
from trainer.execution import float8
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
