"""The Triton kernels: their values on a GPU or in Triton's interpreter, and their code for GPUs.

Each test runs in a process of its own, since Triton reads how it is used when it is imported. A
CPU's torch comes without it: tests/trainer/model/install_triton.sh.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from tests.trainer.model.pointwise_inputs import LENGTH, SHAPES, Shape, draw
from trainer.model import pointwise
from trainer.model.rotary import rotary_table

BESIDE = next(Path(sys.prefix).glob("triton-*[0-9]"), None)
"""Where that script installs it."""

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GPUS = {
    "A100": ("cuda", 80, 32),
    "H200": ("cuda", 90, 32),
    "B200": ("cuda", 100, 32),
    "MI250X": ("hip", "gfx90a", 64),
    "MI300X": ("hip", "gfx942", 64),
}
"""GPU -> Triton's backend, its architecture, threads of a warp."""

HEADS, WIDTH, HIDDEN = 8, 64, 1536
"""Of the model `small`."""


@pytest.fixture
def alone(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], bool]:
    """Return what repeats this test in a process with Triton, and says whether it did."""

    def repeat(interpret: str) -> bool:
        if os.environ.get("TEST_OF_TRITON"):
            return False
        if BESIDE is None and find_spec("triton") is None:
            pytest.skip("no Triton: run tests/trainer/model/install_triton.sh")
        environment = {
            **os.environ,
            "TEST_OF_TRITON": "1",
            "TRITON_INTERPRET": interpret,
            "TRITON_CACHE_DIR": str(tmp_path),
            **({} if BESIDE is None else {"PYTHONPATH": str(BESIDE)}),
        }
        command = [sys.executable, "-m", "pytest", "-p", "no:xdist", request.node.nodeid]
        done = subprocess.run(
            command, cwd=request.config.rootpath, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return True

    return repeat


@pytest.mark.parametrize("shape", SHAPES)
def test_values(shape: Shape, alone: Callable[[str], bool]) -> None:
    if alone("1" if DEVICE == "cpu" else "0"):
        return
    from trainer.model import triton_kernels

    heads, kv_heads, width = shape
    gate_up, dhidden = draw(3, 5, 48), draw(3, 5, 24, seed=1)
    cos, sin = (table[:LENGTH] for table in rotary_table(LENGTH + 2, width, 1e4))
    qkv = draw(2, LENGTH, heads + 2 * kv_heads, width)
    parts = [draw(2, n, LENGTH, width, seed=n) for n in (heads, kv_heads, kv_heads)]
    gradients = [part.transpose(1, 2) for part in parts]
    for name, inputs in (
        ("swiglu", (gate_up,)),
        ("swiglu_backward", (dhidden, gate_up)),
        ("rotary", (qkv, cos, sin, kv_heads)),
        ("rotary_backward", (*gradients, cos, sin)),
    ):
        there = (x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in inputs)
        own = getattr(triton_kernels, name)(*there)
        torch.testing.assert_close(own.cpu(), getattr(pointwise, f"_{name}_cpu")(*inputs))


@pytest.mark.parametrize("gpu", GPUS)
def test_code(gpu: str, alone: Callable[[str], bool]) -> None:
    """SwiGLU, which moves most, reads and writes 16 bytes a thread; nothing is spilled."""
    if alone("0"):
        return
    code = compiled(gpu)
    assert set(code) == {"_swiglu", "_swiglu_backward", "_rotary", "_rotary_backward"}
    if GPUS[gpu][0] == "hip":
        for kernel in code.values():
            assert spilled_by_amd(kernel.asm["amdgcn"]) == 0
            assert kernel.asm["hsaco"]
        return
    for kernel in code.values():
        assert spilled_by_nvidia(kernel.asm["ptx"], gpu) == 0
    for name in ("_swiglu", "_swiglu_backward"):
        accesses = re.findall(r"(?:ld|st)\.global\S*", code[name].asm["ptx"])
        assert set(accesses) == {"ld.global.v4.b32", "st.global.v4.b32"}


def compiled(gpu: str) -> dict[str, Any]:
    """Return the name of each kernel -> its code for a GPU that is not there."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    found = {}
    launch = JITFunction.run

    def compile_only(self: Any, *arguments: Any, **options: Any) -> None:
        found[self.fn.__name__] = launch(self, *arguments, **{**options, "warmup": True})

    driver.set_active(
        mock.Mock(
            get_current_target=lambda: GPUTarget(*GPUS[gpu]),
            get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
        )
    )
    with mock.patch.object(JITFunction, "run", compile_only):
        call_all()
    return found


def call_all() -> None:
    """Call each kernel with tensors of a run."""
    from trainer.model import triton_kernels

    tokens = torch.empty((2, 64, 1), dtype=torch.bfloat16)
    gate_up, hidden = (tokens.expand(-1, -1, n).contiguous() for n in (2 * HIDDEN, HIDDEN))
    triton_kernels.swiglu(gate_up)
    triton_kernels.swiglu_backward(hidden, gate_up)
    cos, sin = rotary_table(64, WIDTH, 1e4)
    qkv = tokens[..., None].expand(-1, -1, 3 * HEADS, WIDTH).contiguous()
    triton_kernels.rotary(qkv, cos, sin, HEADS)
    # As attention returns them: heads before tokens in memory.
    of_heads = tokens[:, None].expand(-1, HEADS, -1, WIDTH).contiguous().transpose(1, 2)
    triton_kernels.rotary_backward(of_heads, of_heads, of_heads, cos, sin)


def spilled_by_nvidia(ptx: str, gpu: str) -> int:
    """Return the bytes that a thread keeps in memory for want of registers, by ptxas."""
    import triton

    name = "ptxas-blackwell" if GPUS[gpu][1] == 100 else "ptxas"
    ptxas = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    target = re.search(r"\.target (\w+)", ptx)
    assert target is not None
    done = subprocess.run(
        [ptxas, "--verbose", f"--gpu-name={target[1]}", "--output-file=/dev/null", "-"],
        input=ptx,
        capture_output=True,
        text=True,
        check=True,
    )
    return sum(map(int, re.findall(r"(\d+) bytes spill", done.stderr)))


def spilled_by_amd(assembly: str) -> int:
    """Return the registers that a thread keeps in memory."""
    counts = re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", assembly)
    assert len(counts) == 2
    return sum(map(int, counts))
