import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.config import BYTE_VOCABULARY, ModelConfig
from trainer.flops import count_parameters, flops_per_token, mean_context, utilisation
from trainer.model.masks import attention_mask
from trainer.model.model import Transformer

# dim, layers, heads -> parameters, from the set-up guide of a fork of facebookresearch/lingua.
GUIDE = {(512, 8, 8): 27_535_872, (768, 12, 12): 85_350_144, (1024, 16, 16): 206_083_072}


@pytest.mark.parametrize(("shape", "params"), GUIDE.items())
def test_parameters_match_the_guide(shape: tuple[int, int, int], params: int) -> None:
    dim, layers, heads = shape
    config = ModelConfig(dim=dim, n_layers=layers, n_heads=heads)
    assert count_parameters(config, BYTE_VOCABULARY).total == params
    with torch.device("meta"):
        model = Transformer(config, BYTE_VOCABULARY, 16)
    assert sum(parameter.numel() for parameter in model.parameters()) == params


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_kv_heads": 2}, {"n_kv_heads": 1}, {"weight_tying": True}, {"head_dim": 64}],
    ids=str,
)
def test_flops_agree_with_torchs_counter(changes: dict[str, Any]) -> None:
    """Also where key and value heads are fewer, the output is tied, and q is not d."""
    config = ModelConfig.model_validate({"dim": 128, "n_layers": 3, "n_heads": 4, **changes})
    batch, length = 2, 256
    model = Transformer(config, BYTE_VOCABULARY, length)
    model.init_weights(0)
    tokens = torch.zeros(batch, length, dtype=torch.int64)
    # Of the kernels, the plain one does its products where the counter sees them; it does the whole
    # square, as the formula counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, tokens).backward()
    expected = flops_per_token(config, BYTE_VOCABULARY, length) * batch * length
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_causal_attention_counts_half() -> None:
    config = ModelConfig(dim=64, n_layers=2, n_heads=2)
    full = flops_per_token(config, 258, 1024)
    causal = flops_per_token(config, 258, 1024, causal=True)
    assert full - causal == 6 * 2 * 1024 * 64


@given(length=st.integers(1, 40), window=st.none() | st.integers(1, 50))
def test_the_context_matches_the_models_mask(length: int, window: int | None) -> None:
    """Counted entry by entry; a token that sees the first one of all sees half of itself."""
    mask = attention_mask(torch.zeros(1, length, dtype=torch.int64), window, None)
    seen = torch.ones(length, length).tril() if mask is None else mask[0, 0].float()
    keys = seen.sum() - 0.5 * seen[:, 0].sum()
    assert mean_context(length, window) == pytest.approx(keys.item() / length)


@given(length=st.integers(1, 10**6), window=st.integers(1, 10**6), more=st.integers(0, 10**6))
def test_the_context_grows_with_the_window_up_to_half_a_sequence(
    length: int, window: int, more: int
) -> None:
    found = mean_context(length, window)
    assert 0 < found <= mean_context(length, window + more) * (1 + 1e-12)
    assert found <= min(window, mean_context(length) * (1 + 1e-12))
    assert mean_context(length, length + more) == mean_context(length) == length / 2


def test_a_window_of_256_in_8192_by_hand() -> None:
    """206M: MFU counted 2,845,526,016 FLOPs a token, of which the window leaves 47%."""
    config = ModelConfig(dim=1024, n_layers=16, n_heads=16, sliding_window=256)
    # 206,083,072 parameters without 258 * 1024 of the embedding, 6 FLOPs each
    weights = 1_234_913_280
    # 256 keys, but that the first 256 tokens see half as many: 256 - 256^2 / 16,384 = 252
    assert mean_context(8192, 256) == 252
    assert flops_per_token(config, BYTE_VOCABULARY, 8192) == weights + 24 * 16 * 1024 * 252
    assert flops_per_token(config, BYTE_VOCABULARY, 8192, causal=True) == (
        weights + 12 * 16 * 1024 * 252
    )
    before = weights + 12 * 16 * 8192 * 1024
    whole = config.model_copy(update={"sliding_window": None})
    assert flops_per_token(whole, BYTE_VOCABULARY, 8192) == before == 2_845_526_016
    assert before / flops_per_token(config, BYTE_VOCABULARY, 8192) == pytest.approx(2.13, abs=5e-3)


def test_a_counted_context_replaces_the_formula() -> None:
    config = ModelConfig(dim=64, n_layers=2, n_heads=2, sliding_window=100)
    none = flops_per_token(config, 258, 1024, context=0.0)
    assert none == 6 * count_parameters(config, 258).without_embedding
    assert flops_per_token(config, 258, 1024, context=10.0) - none == 24 * 2 * 64 * 10
    assert flops_per_token(config, 258, 1024, context=10.0, causal=True) - none == 12 * 2 * 64 * 10


def test_utilisation_of_an_unknown_gpu_is_unknown() -> None:
    assert utilisation(1000.0, 1e9, None) is None
    assert utilisation(1000.0, 1e9, 10.0) == pytest.approx(0.1)


def test_utilisation_matches_a_published_one() -> None:
    """MPT-7B on 8 H100: MFU as mosaicml/llm-foundry's benchmarking README states it.

    Its model has dim 4096, 32 layers and 6,658,859,008 parameters; MFU there counts 6N + 12*L*S*d.
    """
    path = Path(__file__).parents[1] / "data" / "mpt_h100.csv"
    with path.open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert len(rows) >= 3
    for row in rows:
        attention = 12 * int(row["n_layers"]) * int(row["seq_len"]) * int(row["dim"])
        flops = 6 * int(row["params"]) + attention
        mfu = utilisation(float(row["tokens_per_s_per_gpu"]), flops, float(row["peak_tflops"]))
        assert mfu == pytest.approx(float(row["mfu_percent"]) / 100, rel=0.01)
