"""Number of operations that a training step launches: ours, plain PyTorch and transformers.

    python -m benchmarks.operations [--shape tiny]

Counted eager, on the GPU if there is one. Views launch nothing and are not counted. `matmuls` are
those among the operations; `reads` are numbers read from the device, each of which would make the
CPU wait.
"""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import command_line, run
from benchmarks.interleaved_steps import CONTENDERS, Step
from benchmarks.trainer_runs import device, machine_text, shape_names, shape_of
from trainer.config import BYTE_VOCABULARY, ModelConfig

LENGTH = 16
LAUNCH_NOTHING = (
    "_unsafe_view",
    "device",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "_record_function_enter_new",
    "_record_function_exit",
)


def launches(operation: Any) -> bool:
    """Say whether an operator launches a kernel: views and new, empty tensors do not."""
    returns = operation._schema.returns
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    return not is_view and operation.overloadpacket.__name__ not in LAUNCH_NOTHING


class Launched(TorchDispatchMode):
    """Counts launched operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if launches(func):
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def count(step: Step) -> Counter[str]:
    """Return the operations of a step after the first, which creates the optimizer's state."""
    step()
    with Launched() as launched:
        step()
    return launched.counts


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--shape",
        default="tiny",
        choices=shape_names(),
        help="a model of config/models.yaml, or tiny",
    )
    parser.add_argument("--device", default=device(), choices=("cpu", "cuda"))
    options = parser.parse_args()
    model = ModelConfig.model_validate(shape_of(options.shape))
    window = torch.randint(BYTE_VOCABULARY, (1, LENGTH + 1), device=options.device)
    print(f"{options.shape}, {model.n_layers} layers, {machine_text(options.device)}")
    print(f"{'':16} {'operations':>10} {'matmuls':>10} {'reads':>6}")
    for name, build in CONTENDERS.items():
        counts = count(build(model, window, False))
        print(
            f"{name:16} {counts.total():10} {counts['mm'] + counts['addmm'] + counts['bmm']:10} "
            f"{counts['_local_scalar_dense']:6}"
        )


if __name__ == "__main__":
    run(main)
