"""The four rates that a roofline needs, measured on this device; imports torch.

    python -m benchmarks.roofline --measure

Each rate is the best of several repeats: a roofline needs what the kernels can reach, not their
average on a shared machine. On a GPU, comments add the rates after seconds of the same work, when
the power limit has lowered the clock.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from benchmarks.timing import synchronize
from trainer import gpu_state

REPEATS = 5

SUSTAINED_S = 4.0
"""Seconds of the same work for a sustained rate: that of the second half."""


@dataclass(frozen=True)
class Sizes:
    """Problem sizes: large enough to keep the device busy, small enough to take seconds."""

    dtype: str
    square: int
    """Rows and columns of the matrices."""
    copy_bytes: int
    """Bytes of the copied tensor: far more than caches hold."""
    heads: int
    """Heads times sequences in the attention."""
    seq_len: int
    window_s: float
    """Minimum time of a repeat, s."""


GPU = Sizes("bf16", square=8192, copy_bytes=2**31, heads=128, seq_len=2048, window_s=0.2)
# fp32: few processors have native bf16 arithmetic; on the others the trainer uses fp32.
CPU = Sizes("fp32", square=1024, copy_bytes=2**28, heads=8, seq_len=1024, window_s=0.1)
HEAD_DIM = 64

Timing = Callable[[Callable[[], object], Sizes], float]
"""Returns the time of a call, s: `best_s` or `sustained_s`."""


def measure() -> str:
    """Return the rates as YAML, for the key `rates` of a cluster."""
    on_gpu = torch.cuda.is_available()
    device, sizes = ("cuda", GPU) if on_gpu else ("cpu", CPU)
    dtype = torch.bfloat16 if sizes.dtype == "bf16" else torch.float32
    name = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    forward, backward = attention_tflops(sizes, device, dtype)
    lines = [
        f"# measured on {name}, torch {torch.__version__}",
        "rates:",
        f"  dtype: {sizes.dtype}",
        f"  matmul_tflops: {matmul_tflops(sizes, device, dtype):.3g}",
        f"  copy_tb_s: {copy_tb_s(sizes, device):.3g}",
        f"  attention_forward_tflops: {forward:.3g}",
        f"  attention_backward_tflops: {backward:.3g}",
    ]
    if on_gpu:
        lines += [f"# after {SUSTAINED_S:.0f} s of each:", *sustained_lines(sizes, device, dtype)]
    return "\n".join(lines)


def sustained_lines(sizes: Sizes, device: str, dtype: torch.dtype) -> list[str]:
    """Return sustained rates, each with the clock at its end and what limited it, as comments."""
    work: dict[str, Callable[[], tuple[float, ...]]] = {
        "matmul_tflops": lambda: (matmul_tflops(sizes, device, dtype, sustained_s),),
        "copy_tb_s": lambda: (copy_tb_s(sizes, device, sustained_s),),
        "attention_forward_tflops, attention_backward_tflops": lambda: attention_tflops(
            sizes, device, dtype, sustained_s
        ),
    }
    lines = []
    for name, rates in work.items():
        text = ", ".join(f"{rate:.3g}" for rate in rates())
        state = gpu_state.read(str(torch.cuda.get_device_properties(device).uuid))
        clock = "" if state is None else f" at {state.clock_mhz} MHz{state.limits_text}"
        lines.append(f"#   {name}: {text}{clock}")
    return lines


def matmul_tflops(
    sizes: Sizes, device: str, dtype: torch.dtype, seconds: Timing | None = None
) -> float:
    """Return the rate of a matmul of two square matrices, 2 n^3 FLOPs."""
    a, b = (torch.randn(sizes.square, sizes.square, device=device, dtype=dtype) for _ in range(2))
    return 2 * sizes.square**3 / (seconds or best_s)(lambda: a @ b, sizes) / 1e12


def copy_tb_s(sizes: Sizes, device: str, seconds: Timing | None = None) -> float:
    """Return the rate of a copy: each byte is read once and written once."""
    source = torch.zeros(sizes.copy_bytes, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    once_s = (seconds or best_s)(lambda: target.copy_(source), sizes)
    return 2 * sizes.copy_bytes / once_s / 1e12


def attention_tflops(
    sizes: Sizes, device: str, dtype: torch.dtype, seconds: Timing | None = None
) -> tuple[float, float]:
    """Return the rates of causal attention, forward and backward, with heads of width 64.

    4 S^2 d FLOPs per head forward and 2.5 times as many backward, halved by the causal mask.
    Backward time is that of both minus forward.
    """
    shape = (1, sizes.heads, sizes.seq_len, HEAD_DIM)
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    gradient = torch.randn(shape, device=device, dtype=dtype)

    def forward() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def both() -> None:
        torch.autograd.grad(forward(), (q, k, v), gradient)

    flops = 4 * sizes.seq_len**2 * HEAD_DIM * sizes.heads / 2
    timing = seconds or best_s
    forward_s, both_s = timing(forward, sizes), timing(both, sizes)
    return flops / forward_s / 1e12, 2.5 * flops / (both_s - forward_s) / 1e12


def best_s(work: Callable[[], object], sizes: Sizes) -> float:
    """Return the minimum mean time of `work` over repeats of at least `window_s`, s."""
    for _ in range(3):
        work()
    once = timed_s(work, 1)
    count = max(1, round(sizes.window_s / once))
    return min(timed_s(work, count) for _ in range(REPEATS))


def sustained_s(work: Callable[[], object], sizes: Sizes) -> float:
    """Return the mean time of `work` in the second half of SUSTAINED_S, s."""
    work()
    count = max(1, round(SUSTAINED_S / 2 / timed_s(work, 1)))
    timed_s(work, count)
    return timed_s(work, count)


def timed_s(work: Callable[[], object], count: int) -> float:
    """Return the mean time of `count` calls, s."""
    synchronize()
    start = time.perf_counter()
    for _ in range(count):
        work()
    synchronize()
    return (time.perf_counter() - start) / count
