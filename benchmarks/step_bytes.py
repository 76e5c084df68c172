"""Bytes that the kernels of a step between its matmuls and attention move, counted without a GPU.

    python -m benchmarks.step_bytes [--model small] [--batch-size 8] [--seq-len 2048]
    python -m benchmarks.step_bytes --kernels     # each of them
    python -m benchmarks.step_bytes --compile-options '{combo_kernels: true}'

One block, and the final norm with output matrix and loss, each with the residual sum before it,
forward and backward with bf16 matmuls, in the forms that a GPU's run can choose. How they are
counted: benchmarks/fake_gpu.py. Nothing runs, so that nothing is said about time.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import torch
from tabulate import tabulate
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import command_line, run
from benchmarks.fake_gpu import Kernel, compiled_kernels, eager_kernels
from benchmarks.trainer_runs import shape_names, shape_of
from study.command_line import whole
from study.roofline import pointwise_values
from study.workload import VALUE_BYTES
from trainer.config import BYTE_VOCABULARY, DistributedConfig, ModelConfig
from trainer.execution import compiling
from trainer.execution.choices import LOSS_CHUNK, OUTPUT_MULTIPLE, Dtype
from trainer.execution.precision import DTYPES, precision
from trainer.model import pointwise
from trainer.model.block import Attention, Block, FeedForward
from trainer.model.loss import chunk_gradient
from trainer.model.model import Transformer
from trainer.model.weight_copies import keep_copies
from trainer.settings import validate
from trainer.yaml_files import parse_yaml

MATMULS: Dtype = "bf16"
CPU = torch.device("cpu")
LARGE_VOCABULARY = 32_768

Shape = tuple[int, int]
"""Sequences of a micro-batch, and tokens of each."""


@dataclass(frozen=True)
class BlockForm:
    """How a block is computed."""

    compiled: bool
    triton: bool
    """SwiGLU, rotary embedding, and sum with norm are Triton kernels, and the optimizer keeps bf16
    copies of the matrices: what a run uses on a GPU."""
    residual: Dtype
    """Number format of the residual stream."""

    def __str__(self) -> str:
        how = "compiled" if self.compiled else "eager"
        return f"{how}, {'Triton' if self.triton else 'operators'}, {self.residual} residual"


@dataclass(frozen=True)
class LossForm:
    """How the loss is computed, from an fp32 residual stream."""

    how: Literal["eager", "compiled", "Triton"]
    vocabulary: int
    """Token ids."""
    chunk: int
    """Tokens whose logits are in memory at once; 0: all."""

    def __str__(self) -> str:
        logits = f"{self.chunk} tokens at once" if self.chunk else "all logits at once"
        return f"{self.how}, {self.vocabulary} ids, {logits}"


RESIDUALS: tuple[Dtype, ...] = ("fp32", "bf16")
BLOCKS = [
    BlockForm(compiled, triton, residual)
    for compiled in (False, True)
    for triton in (False, True)
    for residual in RESIDUALS
]
LOSSES = [
    LossForm("eager", BYTE_VOCABULARY, 0),
    LossForm("compiled", BYTE_VOCABULARY, 0),
    LossForm("Triton", BYTE_VOCABULARY, 0),
    LossForm("eager", LARGE_VOCABULARY, 0),
    LossForm("eager", LARGE_VOCABULARY, LOSS_CHUNK),
    LossForm("compiled", LARGE_VOCABULARY, LOSS_CHUNK),
    LossForm("Triton", LARGE_VOCABULARY, LOSS_CHUNK),
]


def block_kernels(model: ModelConfig, batch: Shape, form: BlockForm) -> list[Kernel]:
    """Return the kernels of a block, forward and backward."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        block = Block(model, fused=True)
        for module in block.modules():
            if isinstance(module, Attention | Block | FeedForward):
                module.one_kernel = form.triton and module.fits_kernel
        copies = keep_copies(block, take_gradients=True) if form.triton else {}
        leaves = [copies.get(weight, weight) for weight in block.parameters()]
        dtype = DTYPES[form.residual]
        shape = (*batch, model.dim)
        x = torch.empty(shape, dtype=dtype, requires_grad=True)
        branch = torch.empty(shape, dtype=DTYPES[MATMULS], requires_grad=True)
        cos, sin = (torch.empty(batch[1], 1, model.head_dim) for _ in range(2))

        def work(backend: Callable[..., Any] | None = None) -> None:
            if backend is not None:
                block.compile(backend=backend, dynamic=False, fullgraph=True)
            with precision(MATMULS, CPU):
                results = block(x, branch, cos, sin)
            gradients = [torch.empty_like(y) for y in results]
            # Not `backward`, which copies a gradient that two tensors without a history share.
            torch.autograd.grad(results, [*leaves, x, branch], gradients)

        return compiled_kernels(work) if form.compiled else eager_kernels(work)


def loss_kernels(model: ModelConfig, batch: Shape, form: LossForm) -> list[Kernel]:
    """Return the kernels of final norm, output matrix and loss, forward and backward."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        whole = Transformer(
            model, form.vocabulary, 1, loss_chunk=form.chunk, output_multiple=OUTPUT_MULTIPLE
        )
        shape = (*batch, model.dim)
        x = torch.empty(shape, requires_grad=True)
        branch = torch.empty(shape, dtype=DTYPES[MATMULS], requires_grad=True)
        targets = torch.empty(batch, dtype=torch.int64)

        def work(backend: Callable[..., Any] | None = None) -> None:
            if backend is not None:
                whole.compile_loss(backend=backend, dynamic=False, fullgraph=True)
            with precision(MATMULS, CPU):
                loss = whole.loss(x, branch, targets)
            loss.backward()

        if form.how == "eager":
            return eager_kernels(work)
        if form.how == "Triton":
            return _triton_loss_kernels(whole, work)
        if not form.chunk:
            return compiled_kernels(work)
        # Only the gradient of a chunk's logits is compiled.
        inside = _chunk_kernels(form, batch)
        calls = []

        def gradient(logits_CV: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
            calls.append(len(logits_CV))
            return torch.empty(()), torch.empty_like(logits_CV)

        whole.chunk_gradient = gradient
        outside = eager_kernels(work)
        return outside + inside * len(calls)


def _triton_loss_kernels(whole: Transformer, work: Callable[[], None]) -> list[Kernel]:
    """Return the kernels of the loss with those of pointwise.py."""
    gradients = []

    def gradient(
        logits_CV: Tensor, target_C1: Tensor, vocabulary: int, count: int
    ) -> tuple[Tensor, Tensor]:
        gradients.append(Kernel("chunk_gradient", 2 * logits_CV.nbytes + target_C1.nbytes))
        return torch.empty(()), torch.empty_like(logits_CV)

    whole.one_kernel = True
    with mock.patch.object(pointwise, "chunk_gradient", gradient):
        return eager_kernels(work) + gradients


def _chunk_kernels(form: LossForm, batch: Shape) -> list[Kernel]:
    padded = form.vocabulary + -form.vocabulary % OUTPUT_MULTIPLE
    logits_CV = torch.empty((form.chunk, padded), dtype=DTYPES[MATMULS])
    target_C1 = torch.empty((form.chunk, 1), dtype=torch.int64)

    def work(backend: Callable[..., Any]) -> None:
        compiled = torch.compile(chunk_gradient, backend=backend, dynamic=False, fullgraph=True)
        compiled(logits_CV, target_C1, form.vocabulary, batch[0] * batch[1])

    with torch.no_grad():
        return compiled_kernels(work)


def least_bytes(model: ModelConfig, tokens: int) -> int:
    """Return the bytes of a block in the roofline: each tensor once, in the matmuls' dtype."""
    two, one = (model.model_copy(update={"n_layers": count}) for count in (2, 1))
    return (pointwise_values(two) - pointwise_values(one)) * VALUE_BYTES[MATMULS] * tokens


def least_loss_bytes(model: ModelConfig, tokens: int, vocabulary: int) -> int:
    """Return those of last sum, final norm and loss: logits in and their gradient out, sum and norm
    both ways."""
    return (2 * vocabulary + (2 + 3 + 2 + 1) * model.dim) * VALUE_BYTES[MATMULS] * tokens


def main() -> None:
    parser = command_line(__doc__)
    add = parser.add_argument
    add("--model", default="small", choices=shape_names(), help="a model of config/models.yaml")
    add("--batch-size", type=whole, default=8, help="sequences, default 8")
    add("--seq-len", type=whole, default=2048, help="tokens of a sequence, default 2048")
    add("--kernels", action="store_true", help="print each kernel that is counted")
    add("--compile-options", default="{}", help="of torch.compile, as YAML: '{max_autotune: true}'")
    options = parser.parse_args()
    values = {"compile_options": parse_yaml(options.compile_options, "--compile-options")}
    compile_options = validate(DistributedConfig, values, "command line").compile_options
    compiling.check(compile_options, "command line")
    with torch._inductor.config.patch(compile_options):
        print(table(options))


def table(options: argparse.Namespace) -> str:
    """Return the table of all forms; print their kernels if asked for."""
    model = validate(ModelConfig, shape_of(options.model), options.model)
    batch = (options.batch_size, options.seq_len)
    tokens = batch[0] * batch[1]
    rows = []
    for form in BLOCKS:
        rows.append(row("block", str(form), block_kernels(model, batch, form), options.kernels))
    rows.append(["block", "roofline", f"{least_bytes(model, tokens) / 1e9:.3f}", "", ""])
    for loss in LOSSES:
        rows.append(row("loss", str(loss), loss_kernels(model, batch, loss), options.kernels))
    for vocabulary in (BYTE_VOCABULARY, LARGE_VOCABULARY):
        least = least_loss_bytes(model, tokens, vocabulary) / 1e9
        rows.append(["loss", f"roofline, {vocabulary} ids", f"{least:.3f}", "", ""])
    head = f"{options.model}, {batch[0]} x {batch[1]} tokens, torch {torch.__version__}"
    return f"{head}\n\n{tabulate(rows, HEADINGS, 'pipe', disable_numparse=True, colalign=ALIGN)}"


HEADINGS = ["Part", "Form", "Moved (GB)", "Kernels", "With matmuls, attention"]
ALIGN = ["left", "left", "right", "right", "right"]


def row(part: str, form: str, kernels: list[Kernel], verbose: bool) -> list[str]:
    """Return a row of the table; print its kernels if verbose."""
    counted = [kernel for kernel in kernels if kernel.is_pointwise]
    if verbose:
        print(f"{part}: {form}")
        for kernel in counted:
            print(f"{kernel.moved / 1e6:9.1f} MB  {kernel.name}")
    moved = sum(kernel.moved for kernel in counted)
    return [part, form, f"{moved / 1e9:.3f}", str(len(counted)), str(len(kernels))]


if __name__ == "__main__":
    run(main)
