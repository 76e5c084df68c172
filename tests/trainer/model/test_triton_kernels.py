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
from torch import Tensor

from tests.trainer.model.pointwise_inputs import LENGTH, SHAPES, Shape, draw
from trainer.config import OptimConfig
from trainer.model import pointwise
from trainer.model.adamw_update import plain_adamw
from trainer.model.loss import chunk_gradient
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

KERNELS = {
    *("_swiglu", "_swiglu_backward", "_rotary", "_rotary_backward"),
    *("_add_norm", "_add_norm_backward", "_sum_parts", "_adamw"),
    *("_embed", "_embed_backward", "_chunk_gradient"),
}

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
        ("embed", (draw(9, 24), torch.tensor([[1, 8, 1], [0, 3, 1]]), torch.float32)),
        ("embed_backward", (draw(2, 3, 24), torch.tensor([[1, 8, 1], [0, 3, 1]]), 9)),
        ("rotary", (qkv, cos, sin, kv_heads)),
        ("rotary_backward", (*gradients, cos, sin)),
    ):
        there = (x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in inputs)
        own = getattr(triton_kernels, name)(*there)
        torch.testing.assert_close(own.cpu(), getattr(pointwise, f"_{name}_cpu")(*inputs))


@pytest.mark.parametrize("programs", [1, 3, 100])
@pytest.mark.parametrize("width", [24, 1100])
@pytest.mark.parametrize("branch_dtype", [torch.float32, torch.float64])
def test_norms(
    branch_dtype: torch.dtype,
    width: int,
    programs: int,
    alone: Callable[[str], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that several programs share, and with a branch of another dtype than the sum."""
    if alone("1" if DEVICE == "cpu" else "0"):
        return
    from trainer.model import triton_kernels

    constants = {"NORM_TILE": 64, "NORM_WARP": 4096, "NORM_WARPS": programs, "SUM_ROWS": 4}
    for name, value in constants.items():  # a program is one warp
        monkeypatch.setattr(triton_kernels, name, value)
    x, branch, dtotal, dnormed = (draw(3, 5, width, seed=n) for n in range(4))
    weight = draw(width, seed=4)
    inputs = [x, branch.to(branch_dtype), weight, 1e-5, torch.float32]
    expected = pointwise._add_norm_cpu(*inputs)
    compare(triton_kernels.add_norm, inputs, expected)
    for dsum in (dtotal, None):  # None: nothing else used the sum
        inputs = [dsum, dnormed, expected[0], expected[2], weight, branch_dtype]
        gradients = pointwise._add_norm_backward_cpu(*inputs)
        compare(triton_kernels.add_norm_backward, inputs, gradients)


def compare(
    kernel: Callable[..., tuple[Tensor, ...]], inputs: list[Any], expected: tuple[Tensor, ...]
) -> None:
    found = kernel(*(x.to(DEVICE) if isinstance(x, Tensor) else x for x in inputs))
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own.cpu(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("vocabulary", "padded"), [(5, 5), (258, 320), (9000, 9024)])
def test_gradient_of_the_loss(vocabulary: int, padded: int, alone: Callable[[str], bool]) -> None:
    """Also with large logits, and where a row needs several blocks; padding has no gradient."""
    if alone("1" if DEVICE == "cpu" else "0"):
        return
    from trainer.model import triton_kernels

    logits = 30 * draw(6, padded)
    targets = torch.tensor([0, 1, 2, 3, 4, vocabulary - 1])[:, None]
    expected = chunk_gradient(logits, targets, vocabulary, 7)
    inputs = [logits, targets, vocabulary, 7]
    compare(triton_kernels.chunk_gradient, inputs, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("step", [1, 100])
def test_adamw(step: int, dtype: torch.dtype, alone: Callable[[str], bool]) -> None:
    if alone("1" if DEVICE == "cpu" else "0"):
        return
    from trainer.model import triton_kernels

    config = OptimConfig(lr=0.1, beta1=0.9, beta2=0.9999, epsilon=1e-3)
    weight, mean, gradient = (draw(40, 52, seed=n) for n in (1, 2, 3))
    square, gradient = draw(40, 52, seed=4).square(), gradient.to(dtype)
    biases = [1 - beta**step for beta in (0.9, 0.9999)]
    factors = torch.tensor([0.02, 3.0, *biases])
    there = [x.to(DEVICE, copy=True) for x in (weight, gradient, mean, square, gradient.bfloat16())]
    triton_kernels.adamw(*there, factors.to(DEVICE), config, decay=0.3)
    count = torch.tensor(float(step))
    plain_adamw(weight, gradient.float() / 3, mean, square, count, 0.02, config, 0.3)
    for own, expected in zip(there, (weight, gradient, mean, square), strict=False):
        torch.testing.assert_close(own.cpu(), expected)
    # Triton's interpreter truncates to bf16; `test_code` sees that a GPU rounds to the nearest.
    step_of_bf16 = 2**-7 if DEVICE == "cpu" else 0.0
    expected = there[0] if DEVICE == "cpu" else there[0].bfloat16().float()
    torch.testing.assert_close(there[4].float(), expected, rtol=step_of_bf16, atol=0)


@pytest.mark.parametrize(("gpu", "width"), [*((gpu, 512) for gpu in GPUS), ("H200", 8192)])
def test_code(gpu: str, width: int, alone: Callable[[str], bool]) -> None:
    """SwiGLU and AdamW, which move most, access 16 bytes a thread at a time; nothing is spilled."""
    if alone("0"):
        return
    code = compiled(gpu, width)
    assert set(code) == KERNELS
    if GPUS[gpu][0] == "hip":
        for kernel in code.values():
            assert spilled_by_amd(kernel.asm["amdgcn"]) == 0
            assert kernel.asm["hsaco"]
        return
    for kernel in code.values():
        assert spilled_by_nvidia(kernel.asm["ptx"], gpu) == 0
    for name in ("_add_norm", "_add_norm_backward", "_chunk_gradient"):
        accesses = re.findall(r"(?:ld|st)\.global\S*", code[name].asm["ptx"])
        assert accesses.count("ld.global.b16") == 0
    # A thread loads the factor of each of its rows once; of 2 rows, or of a part of one.
    accesses = re.findall(r"ld\.global\S*", code["_add_norm_backward"].asm["ptx"])
    assert accesses.count("ld.global.b32") <= 2
    for name, numbers in (("_swiglu", 0), ("_swiglu_backward", 0), ("_adamw", 4)):
        accesses = re.findall(r"(?:ld|st)\.global\S*", code[name].asm["ptx"])
        assert accesses.count("ld.global.b32") == numbers  # the same for all threads
        assert "cvt.rn.bf16" in code[name].asm["ptx"]  # rounds to the nearest
        assert set(accesses) - {"ld.global.b32"} == {"ld.global.v4.b32", "st.global.v4.b32"}


def compiled(gpu: str, width: int) -> dict[str, Any]:
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
        call_all(width)
    return found


def call_all(width: int) -> None:
    """Call each kernel with tensors of a run, and a residual stream of that width."""
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
    stream, half = torch.empty((64, width)), torch.empty((64, width), dtype=torch.bfloat16)
    gain = torch.empty(width)
    _, _, scale = triton_kernels.add_norm(stream, half, gain, 1e-5, torch.bfloat16)
    triton_kernels.add_norm_backward(stream, half, stream, scale, gain, torch.bfloat16)
    ids, table = torch.empty((64, 1), dtype=torch.int64), torch.empty((258, width))
    triton_kernels.embed(table, ids, torch.bfloat16)
    triton_kernels.embed_backward(half, ids, 258)
    logits = torch.empty((64, 320), dtype=torch.bfloat16)
    triton_kernels.chunk_gradient(logits, ids, 258, 64)
    weight, half = torch.empty((64, 64)), torch.empty((64, 64), dtype=torch.bfloat16)
    factors, config = torch.empty(4), OptimConfig()
    triton_kernels.adamw(weight, half, weight, weight, half, factors, config, decay=0.1)


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
