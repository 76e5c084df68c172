"""Makes torch and the model use the kernels of a run: attention, fp32 matmuls on a CPU, Triton."""

from trainer.config import RunConfig
from trainer.execution.choices import Choices
from trainer.execution.sdpa import allow_all, allow_only, find_problem
from trainer.model.block import Attention, Block, FeedForward
from trainer.model.linear import Linear
from trainer.model.model import Transformer
from trainer.problems import ConfigError


def check(config: RunConfig) -> None:
    """Raise ConfigError if a run names an attention kernel that is not installed."""
    wanted = config.distributed.attention
    problem = find_problem(wanted)
    if problem is not None:
        raise ConfigError("run", [f"distributed.attention = {wanted}: {problem}"])


def use(choices: Choices, model: Transformer) -> None:
    """Make torch and the model use the chosen kernels."""
    assert choices.attention is not None, "chosen by choose_attention"
    model.masks_blocks = choices.attention == "flex"
    if choices.attention in ("torch", "flex"):  # flex is not one of SDPA's kernels
        allow_all()
    else:
        allow_only(choices.attention)
    fast_cpu = choices.cpu_matmul == "onednn"
    for module in model.modules():
        if isinstance(module, Linear):
            module.fast_cpu = fast_cpu
        elif isinstance(module, Attention | Block | FeedForward | Transformer):
            module.one_kernel = choices.fused_pointwise and module.fits_kernel
