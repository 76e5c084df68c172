"""Muon: momentum whose matrices are orthogonalised by a Newton-Schulz iteration."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import OptimConfig
from trainer.model.adamw import AdamW
from trainer.model.gradients import WithGradients, clip_divisor, full, shard_like
from trainer.model.linear import parts_of, rows_of
from trainer.model.optimizers import NEWTON_SCHULZ_STEPS

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration a X + b (X X^T) X + c (X X^T)^2 X (Jordan et al. 2024): steepest at 0,
so that five steps bring singular values into about 0.7 to 1.2."""

UPDATE_RMS = 0.2
"""Size of an update, relative to the learning rate: that of AdamW (Liu et al. 2025, section 2.2),
so that AdamW's learning rates and weight decay apply."""

SMALLEST_NORM = 1e-7

STACKED = 2**26
"""Matrix elements that are orthogonalised together, at most: 128 MiB in bf16."""


class Muon(WithGradients):
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for all other weights.

    Within rounding it equals torch.optim.Muon(adjust_lr_fn="match_rms_adamw"), with Nesterov's
    momentum. Matrices of one shape are orthogonalised together, in bf16 on a GPU and in fp32 on a
    CPU; matrices that the model fuses, each by itself. If weights are sharded (DTensor), every
    process gathers the momentum and updates its own shard.
    """

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        named = dict(model.named_parameters())
        inside = [name for name, p in named.items() if name.startswith("layers.") and p.ndim >= 2]
        self._config = config
        self._rest = AdamW(model, config, named.keys() - set(inside))
        self._matrices = [
            _Matrix(name, named[parameter], rows, torch.zeros_like(rows_of(named[parameter], rows)))
            for name, (parameter, rows) in parts_of(model).items()
            if parameter in inside
        ]
        self.parameters: list[Tensor] = [*(named[name] for name in inside), *self._rest.parameters]
        self.leaves = self.parameters

    @property
    def rate(self) -> float | Tensor:
        """Learning rate of the next step; a tensor if a CUDA graph reads it."""
        return self._rest.rate

    @rate.setter
    def rate(self, value: float | Tensor) -> None:
        self._rest.rate = value

    def set_rate(self, value: float) -> None:
        """Set the learning rate of the next steps."""
        self._rest.set_rate(value)

    @torch.no_grad()
    def step(self, norm: Tensor | None = None) -> None:
        """Take a step; given the norm of the gradients, clip them too."""
        self._rest.step(norm)
        divisor = clip_divisor(norm, self._config.clip)
        for matrices in _stacks(self._matrices):
            updates = _advance(matrices, self._config.momentum, divisor)
            _move(matrices, orthogonalise(updates), self.rate, self._config.weight_decay)

    def state_dict(self) -> dict[str, Any]:
        """Return momentum and moments under the names of the weights; loading writes into them."""
        momentum = {matrix.name: {"momentum": matrix.momentum} for matrix in self._matrices}
        return {"state": {**momentum, **self._rest.state_dict()["state"]}}


@dataclass(frozen=True)
class _Matrix:
    """One matrix of a block: some rows of a parameter."""

    name: str
    parameter: nn.Parameter
    rows: slice
    momentum: Tensor

    @property
    def weight(self) -> Tensor:
        """Its rows of the parameter."""
        return rows_of(self.parameter, self.rows)

    @property
    def gradient(self) -> Tensor:
        """Its rows of the gradient."""
        assert self.parameter.grad is not None, f"{self.name} has no gradient"
        return rows_of(shard_like(self.parameter.grad, self.parameter), self.rows)


def _advance(matrices: Sequence[_Matrix], decay: float, divisor: Tensor | None) -> Tensor:
    """Add the gradients of matrices of one shape to their momenta; return Nesterov's.

    They are whole and (n, rows, columns), to be orthogonalised.
    """
    momenta = [matrix.momentum for matrix in matrices]
    gradients = [matrix.gradient for matrix in matrices]
    if divisor is not None:
        gradients = list(torch._foreach_div(gradients, divisor))
    torch._foreach_lerp_(momenta, gradients, 1 - decay)
    if hasattr(momenta[0], "placements"):  # DTensor, for which torch 2.11 has no _foreach_lerp
        pairs = zip(gradients, momenta, strict=True)
        updates = [full(gradient.lerp(momentum, decay)) for gradient, momentum in pairs]
    else:
        updates = list(torch._foreach_lerp(gradients, momenta, decay))
    dtype = torch.bfloat16 if updates[0].is_cuda else updates[0].dtype
    stack = updates[0].new_empty((len(updates), *updates[0].shape), dtype=dtype)
    torch._foreach_copy_(list(stack), updates)
    return stack


def _move(
    matrices: Sequence[_Matrix], directions: Tensor, rate: float | Tensor, weight_decay: float
) -> None:
    """Take a step along orthogonal matrices (n, rows, columns)."""
    weights = [matrix.weight for matrix in matrices]
    size = UPDATE_RMS * max(directions.shape[1:]) ** 0.5
    steps = directions.to(weights[0].dtype) * (rate * size)
    torch._foreach_mul_(weights, 1 - rate * weight_decay)
    torch._foreach_sub_(weights, [_sharded_like(s, w) for s, w in zip(steps, weights, strict=True)])


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return (n, rows, columns): each matrix with its singular values brought near 1."""
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM)
    a, b, c = COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _stacks(matrices: Sequence[_Matrix]) -> Iterator[list[_Matrix]]:
    """Yield matrices of one shape, as many as are orthogonalised together."""
    by_shape: dict[tuple[int, ...], list[_Matrix]] = defaultdict(list)
    for matrix in matrices:
        by_shape[tuple(matrix.momentum.shape)].append(matrix)
    for shape, equal in by_shape.items():
        count = max(1, STACKED // math.prod(shape))
        for start in range(0, len(equal), count):
            yield equal[start : start + count]


def _sharded_like(tensor: Tensor, weight: Tensor) -> Tensor:
    """Return a tensor that every process has, with the placements of a weight."""
    if not hasattr(weight, "placements"):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = weight.device_mesh  # type: ignore[attr-defined]
    whole = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return whole.redistribute(placements=weight.placements)
