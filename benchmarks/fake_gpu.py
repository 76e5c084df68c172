"""Kernels of an NVIDIA GPU that a function would launch, with the bytes that each moves: no GPU.

Nothing runs: the function is traced with fake tensors, which have shapes but no data. They are on
the CPU, since a CPU build of torch cannot differentiate others; `gpu_operators` replaces the CPU's
operators by those of a GPU where they differ.

Eager kernels move their inputs and outputs, each once. Compiled kernels are those into which
torch.compile fuses the function for a GPU, and they move what its own accounting says: each tensor
once, and no more of it than there is. Compilation ends before code generation, which needs Triton.
"""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._decomp import decomposition_table
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.operations import launches

GPU = torch.device("cuda", 0)

LIBRARY = torch.library.Library("fake_gpu", "DEF")
LIBRARY.define("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)")
LIBRARY.define("rms_norm_backward(Tensor dy, Tensor x, Tensor rstd, Tensor w) -> (Tensor, Tensor)")
LIBRARY.define("attention(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)")
LIBRARY.define(
    "attention_backward(Tensor dy, Tensor q, Tensor k, Tensor v, Tensor y, Tensor logsumexp)"
    " -> (Tensor, Tensor, Tensor)"
)
OPS = torch.ops.fake_gpu

SPARSE = {"gather": 0, "scatter_add_": 0, "nll_loss_forward": 0, "nll_loss_backward": 1}
"""Operator -> the argument of which it touches one element a token at most."""

MATMULS = {"mm", "addmm", "bmm", "attention", "attention_backward"}


@dataclass(frozen=True)
class Kernel:
    """A launch."""

    name: str
    """Operators that it computes."""
    moved: int
    """Bytes that it reads and writes."""

    @property
    def is_pointwise(self) -> bool:
        """Whether it lies between matmuls and attention: pointwise operators, norms, copies."""
        return MATMULS.isdisjoint(self.name.split())


def eager_kernels(work: Callable[[], object]) -> list[Kernel]:
    """Return the kernels of a function that runs under a FakeTensorMode, in launch order."""
    with _Launches() as launched, gpu_operators():
        work()
    return launched.kernels


class _Launches(TorchDispatchMode):
    """Notes each launched operator."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if launches(func):
            name = func.overloadpacket.__name__
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            sparse = args[SPARSE[name]] if name in SPARSE else None
            moved = sum(x.numel() * x.element_size() for x in tensors if x is not sparse)
            self.kernels.append(Kernel(name, moved))
        return result


def compiled_kernels(work: Callable[[Callable[..., Any]], object]) -> list[Kernel]:
    """Return the kernels of a function that compiles what it runs with the given backend.

    It runs under a FakeTensorMode.
    """
    from torch._inductor import compile_fx, scheduler
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.runtime.hints import DeviceProperties

    kernels: list[Kernel] = []
    backend = functools.partial(
        compile_fx.compile_fx,
        inner_compile=functools.partial(_lower, kernels),  # type: ignore[arg-type]
        decompositions={**select_decomp_table(), **_decompositions()},
    )
    torch._dynamo.reset()
    # An H200: the number of multiprocessors decides in how many parts a long sum is computed.
    h200 = DeviceProperties(
        type="cuda", index=0, multi_processor_count=132, cc=90, major=9,
        regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048,
        max_threads_per_block=1024, warp_size=32,
    )  # fmt: skip
    with (
        mock.patch.object(scheduler, "has_triton", lambda: True),
        mock.patch.object(DeviceProperties, "create", lambda device: h200),
        gpu_operators(),
    ):
        work(backend)
    torch._dynamo.reset()
    return kernels


def _lower(
    kernels: list[Kernel], traced: torch.fx.GraphModule, inputs: Sequence[Any], **options: Any
) -> Callable[..., Any]:
    """Fuse a traced graph as for a GPU, note its kernels; return the graph as a function."""
    from torch._inductor import compile_fx
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    mode = next(x.fake_mode for x in inputs if isinstance(x, FakeTensor))
    graph = copy.deepcopy(traced)
    compile_fx.record_original_output_strides(graph)
    with V.set_fake_mode(mode):
        compile_fx._recursive_post_grad_passes(graph, is_inference=False)
        for node in graph.graph.nodes:
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": GPU}
        with mode:
            moved = [
                torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=GPU)
                if isinstance(x, Tensor)
                else x
                for x in inputs
            ]
        FakeTensorProp(graph, mode).propagate(*moved)
        is_backward = options.get("is_backward", False)
        lowering = GraphLowering(graph, example_inputs=moved, is_backward=is_backward)
        with V.set_graph_handler(lowering), V.set_extern_kernel_nodes([]), DebugContext():
            lowering.run(*moved)
            lowering.init_wrapper_code()
            lowering._update_scheduler()
            kernels += [_kernel(node) for node in lowering.scheduler.nodes if _is_launched(node)]
    return compile_fx.make_boxed_func(traced.forward)


def _is_launched(node: Any) -> bool:
    from torch._inductor import ir, scheduler

    return not isinstance(node, scheduler.NopKernelSchedulerNode) and not isinstance(
        node.node, ir.MultiOutput
    )


def _kernel(node: Any) -> Kernel:
    """Return a launch: of an operator as it is, or of fused ones."""
    operator = getattr(node.node, "op_overload", None)
    operators = (
        [operator]
        if operator is not None
        else [o.target for part in node.get_nodes() for o in part.node.get_origins()]
    )
    names = {x.overloadpacket.__name__: None for x in operators if isinstance(x, OpOverload)}
    return Kernel(" ".join(names), node.get_read_write_buffers_sizes())


@contextmanager
def gpu_operators() -> Iterator[None]:
    """Replace RMSNorm and attention by single operators, as a GPU has them."""
    with (
        mock.patch.object(nn.RMSNorm, "forward", _rms_norm),
        mock.patch.object(F, "scaled_dot_product_attention", _attend),
    ):
        yield


def _rms_norm(self: nn.RMSNorm, x: Tensor) -> Tensor:
    return _Norm.apply(x, self.weight, self.eps)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, rstd = OPS.rms_norm(x, weight, eps)
        ctx.save_for_backward(x, rstd, weight)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return *OPS.rms_norm_backward(gradients[0], *ctx.saved_tensors), None


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: None, **options: Any) -> Tensor:
    return _Attention.apply(q, k, v)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y, logsumexp = OPS.attention(q, k, v)
        ctx.save_for_backward(q, k, v, y, logsumexp)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return OPS.attention_backward(gradients[0], *ctx.saved_tensors)


def _norm_shape(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


def _norm_backward_shape(dy: Tensor, x: Tensor, rstd: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(w)


def _attention_shape(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return _by_token(q), q.new_empty(q.shape[:-1], dtype=torch.float32)


def _attention_backward_shape(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, logsumexp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _by_token(q), _by_token(k), _by_token(v)


def _by_token(x_BHTE: Tensor) -> Tensor:
    """Return an empty tensor of the same shape whose heads of a token are adjacent in memory."""
    return torch.empty_like(
        x_BHTE.transpose(1, 2), memory_format=torch.contiguous_format
    ).transpose(1, 2)


for _name, _shape in (
    ("rms_norm", _norm_shape),
    ("rms_norm_backward", _norm_backward_shape),
    ("attention", _attention_shape),
    ("attention_backward", _attention_backward_shape),
):
    torch.library.register_fake(f"fake_gpu::{_name}", _shape, lib=LIBRARY)


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Return what torch.compile replaces a GPU's norm by."""
    aten = torch.ops.aten
    forward = decomposition_table[aten._fused_rms_norm.default]
    backward = decomposition_table[aten._fused_rms_norm_backward.default]

    def norm(x: Tensor, weight: Tensor, eps: float) -> Any:
        return forward(x, list(weight.shape), weight, eps)

    def norm_backward(dy: Tensor, x: Tensor, rstd: Tensor, w: Tensor) -> Any:
        return backward(dy, x, list(w.shape), rstd, w, [True, True])

    return {OPS.rms_norm.default: norm, OPS.rms_norm_backward.default: norm_backward}
