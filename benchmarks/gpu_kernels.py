"""The kernels of pointwise.py and of AdamW by themselves, at the shapes of models."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from benchmarks.gpu_bench import SIZES, Bench, batch_of
from benchmarks.timing import seconds
from trainer.config import OptimConfig
from trainer.execution.choices import OUTPUT_MULTIPLE
from trainer.model.adamw_update import CopiedGroup
from trainer.model.pointwise import OPS, chunk_gradient
from trainer.model.rotary import rotary_table

CALLS = 20
"""Calls of a kernel in a CUDA graph, which is timed."""

REPEATS = 5

NORM_SETTINGS = ("NORM_TILE", "NORM_WARP", "NORM_WARPS")
TILES = (
    *((2048, 512, 16), (2048, 512, 32), (1024, 512, 16), (4096, 1024, 16)),
    *((512, 512, 16), (512, 512, 32), (1024, 1024, 16)),
)
"""Values of these constants of triton_kernels.py to try, first those in use. In the second line a
warp has a whole row of 512 or 1024 numbers, and waits for no other."""

TILED_SIZES = ("27.5M", "206M")
"""Sizes at which they are tried; each compiles its own kernels."""

NARROW = torch.bfloat16


def alone(bench: Bench) -> list[str]:
    """Return each kernel's time, and its inputs and outputs per second.

    Of a step of the models' batch. A matrix of AdamW is one of 4 x dim x dim.
    """
    rows = []
    for size in SIZES:
        cells = []
        for name, call, tensors in _calls(bench, size):
            took = _seconds(call, bench)
            moved = sum(tensor.nbytes for tensor in tensors)
            cells.append(f"{name} {1e6 * took:.1f} us, {moved / took / 1e12:.2f} TB/s")
        rows.append(f"{size}: {'; '.join(cells)}")
    return rows


def norms(bench: Bench) -> list[str]:
    """Return the time of the norms, forward and backward, for each of `TILES`, at two widths."""
    from trainer.model import triton_kernels

    rows = []
    kept = {name: getattr(triton_kernels, name) for name in NORM_SETTINGS}
    for size in TILED_SIZES:
        cells = []
        calls = [call for name, call, _ in _calls(bench, size) if "norm" in name]
        for tile in TILES:
            vars(triton_kernels).update(zip(NORM_SETTINGS, tile, strict=True))
            times = [f"{1e6 * _seconds(call, bench):.1f}" for call in calls]
            cells.append(f"{' '.join(map(str, tile))}: {' '.join(times)}")
        rows.append(f"{size}, us: {'; '.join(cells)}")
    vars(triton_kernels).update(kept)
    return rows


Call = tuple[str, Callable[[], object], Iterable[Tensor]]
"""Name of a kernel, a call, and the tensors that it reads and writes."""


def _calls(bench: Bench, size: str) -> list[Call]:
    config = bench.config(size)
    model, device = config.model, config.device
    tokens = batch_of(config, 0)[0, :, :-1].to(device).contiguous()
    count, dim, vocabulary = tokens.numel(), model.dim, config.data.tokenizer.vocab_size

    def draw(*shape: int, dtype: torch.dtype = NARROW) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device)

    found: list[Call] = []

    def add(name: str, operator: Callable[..., object], *inputs: object) -> None:
        results = operator(*inputs)
        outputs = results if isinstance(results, tuple) else (results,)
        tensors = [x for x in (*inputs, *outputs) if isinstance(x, Tensor)]
        found.append((name, lambda: operator(*inputs), tensors))

    weight, table = draw(dim, dtype=torch.float32), draw(vocabulary, dim, dtype=torch.float32)
    for name, dtype in (("fp32", torch.float32), ("bf16", NARROW)):
        x, branch = draw(count, dim, dtype=dtype), draw(count, dim)
        total, _, scale = OPS.add_norm(x, branch, weight, 1e-5, NARROW)
        add(f"add_norm {name}", OPS.add_norm, x, branch, weight, 1e-5, NARROW)
        inputs = (x, branch, total, scale, weight, NARROW)
        add(f"add_norm_backward {name}", OPS.add_norm_backward, *inputs)
    gate_up = draw(count, 2 * model.ffn_hidden)
    add("swiglu", OPS.swiglu, gate_up)
    add("swiglu_backward", OPS.swiglu_backward, draw(count, model.ffn_hidden), gate_up)
    shape = (*tokens.shape, model.n_heads + 2 * model.kv_heads, model.head_dim)
    cos, sin = (
        table_T1E.to(device)
        for table_T1E in rotary_table(config.data.seq_len, model.head_dim, model.rope_theta)
    )
    qkv = draw(*shape)
    add("rotary", OPS.rotary, qkv, cos, sin, model.kv_heads)
    q, k, v = qkv.split((model.n_heads, model.kv_heads, model.kv_heads), dim=2)
    add("rotary_backward", OPS.rotary_backward, q, k, v, cos, sin)
    add("embed", OPS.embed, table, tokens, NARROW)
    add("embed_backward", OPS.embed_backward, draw(count, dim), tokens, vocabulary)
    logits, targets = draw(count, vocabulary + -vocabulary % OUTPUT_MULTIPLE), tokens.view(-1, 1)
    add("chunk_gradient", chunk_gradient, logits, targets, vocabulary, count)
    found.append(_adamw(draw(4 * dim, dim, dtype=torch.float32)))
    return found


def _adamw(weight: Tensor) -> Call:
    copy = weight.to(NARROW).requires_grad_()
    copy.grad = torch.zeros_like(copy)
    moments = (torch.zeros_like(weight), torch.zeros_like(weight))
    count = torch.ones((), device=weight.device)
    group = CopiedGroup(0.1, [weight], [moments], {weight: copy}, count)
    config = OptimConfig()

    def step() -> None:
        with torch.no_grad():
            group.step(3e-4, config, None)

    return "adamw", step, (weight, *moments, weight, *moments, copy, copy.grad)


def _seconds(call: Callable[[], object], bench: Bench) -> float:
    """Return the shortest time of a call, s."""
    call()
    if bench.rehearses:
        return min(seconds(call) for _ in range(REPEATS))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()
    return min(seconds(graph.replay) for _ in range(REPEATS)) / CALLS
