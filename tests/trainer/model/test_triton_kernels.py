"""The Triton kernels: their values on a GPU or in Triton's interpreter, and their code for GPUs.

Triton reads how it is used when it is imported: the tests of kernel_values.py and of kernel_code.py
run in a process each. A CPU's torch comes without it: tests/trainer/model/install_triton.sh.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

BESIDE = next(Path(sys.prefix).glob("triton-*[0-9]"), None)
"""Where that script installs it."""


@pytest.mark.parametrize(
    ("tests", "interpreted"),
    [("kernel_values.py", not torch.cuda.is_available()), ("kernel_code.py", False)],
)
def test_kernels(tests: str, interpreted: bool, tmp_path: Path) -> None:
    if BESIDE is None and find_spec("triton") is None:
        pytest.skip("no Triton: run tests/trainer/model/install_triton.sh")
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1" if interpreted else "0",
        "TRITON_CACHE_DIR": str(tmp_path),
        **({} if BESIDE is None else {"PYTHONPATH": str(BESIDE)}),
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", Path(__file__).with_name(tests)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
