"""AdamW with parameter groups, on torch's fused kernel."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import OptimConfig
from trainer.model.adamw_update import CopiedGroup, plain_adamw
from trainer.model.gradients import WithGradients, clip_divisor, local, shard_like
from trainer.model.linear import parts_of, rows_of


class AdamW(WithGradients):
    """AdamW (Loshchilov and Hutter 2019) on torch's fused kernel; only matrices are decayed.

    Without clipping it is bitwise equal to torch.optim.AdamW(fused=True). That class imports
    torch.compile at start-up, which takes a second or more, and has a higher cost in Python per
    step. If weights are sharded (DTensor), each process updates its own shard. Weights with copies
    have a kernel of their own, equal within rounding.
    """

    def __init__(
        self, model: nn.Module, config: OptimConfig, names: Collection[str] | None = None
    ) -> None:
        """`names`: the parameters to train; None means all."""
        self._config = config
        self.rate: float | Tensor = config.lr
        """Learning rate of the next step; a tensor if a CUDA graph reads it."""
        named = {n: p for n, p in model.named_parameters() if names is None or n in names}
        self._named = named
        self._parts = {part: place for part, place in parts_of(model).items() if place[0] in named}
        device = next(iter(named.values())).device
        self.step_count = torch.zeros((), device=device)
        self._moments = {
            name: (torch.zeros_like(weight), torch.zeros_like(weight))
            for name, weight in named.items()
        }
        matrices, vectors = self._split_by_decay()
        self.parameters: list[Tensor] = [named[name] for name in (*matrices, *vectors)]
        """Matrices, then vectors."""
        self.use_copies({})

    def _split_by_decay(self) -> tuple[list[str], list[str]]:
        """Return the names of matrices, which are decayed, and of vectors."""
        matrices = [name for name, p in self._named.items() if p.ndim >= 2]
        return matrices, [name for name, p in self._named.items() if p.ndim < 2]

    def use_copies(self, copies: Mapping[Tensor, Tensor]) -> None:
        """Write the copy of each of these matrices at each step; see weight_copies.py."""
        named, moments, count = self._named, self._moments, self.step_count
        matrices, vectors = self._split_by_decay()
        decay = self._config.weight_decay
        plain = [name for name in matrices if named[name] not in copies]
        copied = [name for name in matrices if named[name] in copies]
        self._groups: list[_Group | CopiedGroup] = [
            _Group(share, names, named, moments, count)
            for share, names in ((decay, plain), (0.0, vectors))
            if names
        ]
        if copied:
            weights, of_weights = [named[n] for n in copied], [moments[n] for n in copied]
            self._groups.append(CopiedGroup(decay, weights, of_weights, copies, count))
        self.leaves = [
            copies[p] if p in copies and copies[p].requires_grad else p for p in self.parameters
        ]

    def set_rate(self, value: float) -> None:
        """Set the learning rate of the next steps."""
        if isinstance(self.rate, Tensor):
            self.rate.fill_(value)
        else:
            self.rate = value

    @torch.no_grad()
    def step(self, norm: Tensor | None = None) -> None:
        """Take a step; given the norm of the gradients, clip them too."""
        scale = clip_divisor(norm, self._config.clip)
        self.step_count += 1
        for group in self._groups:
            # The kernel divides by it, which saves a pass over the gradients.
            group.step(self.rate, self._config, scale)

    def state_dict(self) -> dict[str, Any]:
        """Return the moments under the names of the weights; loading writes into these views."""
        state = {}
        for name, (parameter, rows) in self._parts.items():
            first, second = (rows_of(moment, rows) for moment in self._moments[parameter])
            state[name] = {"step": self.step_count, "exp_avg": first, "exp_avg_sq": second}
        return {"state": state}


class _Group:
    """Parameters with the same weight decay, and their moments."""

    def __init__(
        self,
        decay: float,
        names: Sequence[str],
        named: dict[str, nn.Parameter],
        moments: dict[str, tuple[Tensor, Tensor]],
        step_count: Tensor,
    ) -> None:
        self.parameters = [named[name] for name in names]
        self._decay = decay
        self._first = [local(moments[name][0]) for name in names]
        self._second = [local(moments[name][1]) for name in names]
        self._steps = [step_count] * len(names)

    def step(self, rate: float | Tensor, config: OptimConfig, scale: Tensor | None) -> None:
        # Looked up at each step: FSDP2 may move its shards at the first forward pass.
        weights = [local(p) for p in self.parameters]
        gradients = [local(shard_like(p.grad, p)) for p in self.parameters if p.grad is not None]
        assert len(gradients) == len(self.parameters), "a weight has no gradient"
        if not config.fused:
            if scale is not None:
                torch._foreach_div_(gradients, scale)
            state = zip(weights, gradients, self._first, self._second, strict=True)
            for tensors in state:
                plain_adamw(*tensors, self._steps[0], rate, config, self._decay)
            return
        torch._fused_adamw_(
            weights,
            gradients,
            self._first,
            self._second,
            [],
            self._steps,
            lr=rate,
            beta1=config.beta1,
            beta2=config.beta2,
            weight_decay=self._decay,
            eps=config.epsilon,
            amsgrad=False,
            maximize=False,
            grad_scale=scale,
        )
