"""The Triton kernels' code for GPUs that are not there; see test_triton_kernels.py."""

import re
import subprocess
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from trainer.config import OptimConfig
from trainer.model import triton_kernels
from trainer.model.rotary import rotary_table

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


@pytest.mark.parametrize(("gpu", "width"), [*((gpu, 512) for gpu in GPUS), ("H200", 8192)])
def test_code(gpu: str, width: int) -> None:
    """SwiGLU and AdamW, which move most, access 16 bytes a thread at a time; nothing is spilled."""
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
    found = {}
    launch = JITFunction.run

    def compile_only(self: Any, *arguments: Any, **options: Any) -> None:
        found[self.fn.__name__] = launch(self, *arguments, **{**options, "warmup": True})

    driver.set_active(
        mock.Mock(
            get_current_target=lambda: GPUTarget(*GPUS[gpu]),
            # Code is kept for each device.
            get_current_device=lambda: list(GPUS).index(gpu),
            get_current_stream=lambda device: 0,
        )
    )
    with mock.patch.object(JITFunction, "run", compile_only):
        call_all(width)
    return found


def call_all(width: int) -> None:
    """Call each kernel with tensors of a run, and a residual stream of that width."""
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
