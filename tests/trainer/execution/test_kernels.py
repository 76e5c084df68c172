"""Kernels that are named and not there."""

import pytest

from tests.trainer.conftest import Runs


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("attention=cudnn", "distributed.attention = cudnn: not supported on a CPU"),
        ("attention=flesh", "distributed.attention"),
    ],
)
def test_kernels_that_a_cpu_lacks_are_rejected(runs: Runs, setting: str, message: str) -> None:
    done = runs.run(f"distributed.{setting}", check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
