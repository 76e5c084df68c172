from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.trainer.model.scalings import LINEAR, LLAMA3
from trainer.config import RopeScaling
from trainer.model.rotary import scale_frequencies


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
