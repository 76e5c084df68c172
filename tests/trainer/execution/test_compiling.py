"""What of a model is compiled, and with which of torch.compile's options."""

from functools import partial, partialmethod
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import metrics
from torch._inductor.utils import fresh_cache

from tests.trainer.small_runs import run_config
from trainer.config import ActivationCheckpointing, DistributedConfig, ModelConfig
from trainer.execution.compiling import check, compile_blocks
from trainer.model.model import Transformer
from trainer.problems import ConfigError

SHAPE = ModelConfig(dim=16, n_layers=3, n_heads=1, multiple_of=16)
TOKENS = torch.arange(9)[None]


def kernels_with(options: dict[str, int]) -> tuple[int, torch.Tensor]:
    """Return how many kernels of a block and the loss use vector instructions, and the loss."""
    model = Transformer(SHAPE, 258, 8)
    model.init_weights(0)
    torch.compiler.reset()
    metrics.reset()
    with fresh_cache(), torch.no_grad():
        compile_blocks(model, DistributedConfig(compile_options=options), with_loss=True)
        loss = model(TOKENS[:, :-1], TOKENS[:, 1:])
    torch.compiler.reset()
    return metrics.generated_cpp_vec_kernel_count, loss


def test_options_reach_the_compiler() -> None:
    """Of block and loss alike: none of their kernels is vectorised if that is switched off."""
    vectorised, loss = kernels_with({})
    scalar, same = kernels_with({"cpp.simdlen": 0})
    assert vectorised > scalar == 0
    torch.testing.assert_close(same, loss)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch.compile's own
@pytest.mark.parametrize(
    ("dtype", "residual"),
    [(torch.float32, None), (torch.bfloat16, None), (torch.bfloat16, torch.bfloat16)],
)
@pytest.mark.parametrize("ac_mode", get_args(ActivationCheckpointing))
def test_all_blocks_share_one_compilation(
    dtype: torch.dtype,
    residual: torch.dtype | None,
    ac_mode: ActivationCheckpointing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one too, before which there is no other."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compile_module = partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(nn.Module, "compile", compile_module)
    model = Transformer(SHAPE, 258, 8, residual_dtype=residual)
    model.init_weights(0)
    for layer in model.layers:
        layer.ac_mode = ac_mode  # type: ignore[assignment]
    torch.compiler.reset()
    counters.clear()
    compile_blocks(model, DistributedConfig(), with_loss=False)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
        model(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
    assert counters["stats"]["unique_graphs"] == 1


def test_options_that_torch_does_not_have_are_told(tmp_path: Path) -> None:
    options = {"combo_kernel": True, "max_fusion_size": "many", "epilogue_fusion": False}
    with pytest.raises(ConfigError) as error:
        check(
            run_config(
                tmp_path, distributed={"compile_options": options}
            ).distributed.compile_options,
            "run",
        )
    assert [str(problem) for problem in error.value.problems] == [
        "distributed.compile_options.combo_kernel: not an option; did you mean 'combo_kernels'?",
        "distributed.compile_options.max_fusion_size: "
        "Unexpected type of attr max_fusion_size, got str should be int",
    ]
