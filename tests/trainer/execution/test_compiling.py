"""What of a model is compiled, and with which of torch.compile's options."""

from pathlib import Path

import pytest
import torch
from torch._inductor import metrics
from torch._inductor.utils import fresh_cache

from tests.trainer.small_runs import run_config
from trainer.config import DistributedConfig, ModelConfig
from trainer.execution.compiling import check, compile_blocks
from trainer.model.model import Transformer
from trainer.problems import ConfigError


def kernels_with(options: dict[str, int]) -> tuple[int, torch.Tensor]:
    """Return how many kernels of a block and the loss use vector instructions, and the loss."""
    model = Transformer(ModelConfig(dim=16, n_layers=1, n_heads=1, multiple_of=16), 258, 8)
    model.init_weights(0)
    torch.compiler.reset()
    metrics.reset()
    with fresh_cache(), torch.no_grad():
        compile_blocks(model, DistributedConfig(compile_options=options), with_loss=True)
        tokens = torch.arange(9)[None]
        loss = model(tokens[:, :-1], tokens[:, 1:])
    torch.compiler.reset()
    return metrics.generated_cpp_vec_kernel_count, loss


def test_options_reach_the_compiler() -> None:
    """Of block and loss alike: none of their kernels is vectorised if that is switched off."""
    vectorised, loss = kernels_with({})
    scalar, same = kernels_with({"cpp.simdlen": 0})
    assert vectorised > scalar == 0
    torch.testing.assert_close(same, loss)


def test_options_that_torch_does_not_have_are_told(tmp_path: Path) -> None:
    options = {"combo_kernel": True, "max_fusion_size": "many", "epilogue_fusion": False}
    with pytest.raises(ConfigError) as error:
        check(run_config(tmp_path, distributed={"compile_options": options}))
    assert [str(problem) for problem in error.value.problems] == [
        "distributed.compile_options.combo_kernel: not an option; did you mean 'combo_kernels'?",
        "distributed.compile_options.max_fusion_size: "
        "Unexpected type of attr max_fusion_size, got str should be int",
    ]
