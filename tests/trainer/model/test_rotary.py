from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.trainer.model.scalings import LINEAR, LLAMA3
from trainer.config import RopeScaling
from trainer.model.rotary import rotary_table, rotate, scale_frequencies


@pytest.mark.parametrize("scaling", [LINEAR, LLAMA3], ids=["linear", "llama3"])
def test_frequencies_are_transformers(scaling: dict[str, Any]) -> None:
    """Some are kept, some divided, and with llama3 some between."""
    config = LlamaConfig(
        hidden_size=128,
        num_attention_heads=1,
        max_position_embeddings=512,
        rope_parameters={"rope_theta": 500.0, **scaling},
    )
    theirs = LlamaRotaryEmbedding(config)
    plain = 500.0 ** (-torch.arange(0, 128, 2).float() / 128)
    found = scale_frequencies(plain, RopeScaling.model_validate(scaling))
    assert theirs.attention_scaling == 1
    torch.testing.assert_close(found, theirs.inv_freq, rtol=1e-6, atol=0)
    ratios = (plain / found).round(decimals=3)
    assert ratios.max() == scaling["factor"]
    assert len(ratios.unique()) > 3 or scaling is LINEAR


def test_a_rotation_in_bf16_is_rounded_once() -> None:
    """Tables in bf16 would round most results differently."""
    cos, sin = rotary_table(32, 16, 1e4)
    x = torch.randn(2, 32, 3, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = rotate(x.double(), cos.double(), sin.double())
    assert (rotate(x, cos, sin) == exact.bfloat16()).float().mean() > 0.99
