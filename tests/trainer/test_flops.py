import csv
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.config import BYTE_VOCABULARY, ModelConfig
from trainer.flops import count_parameters, flops_per_token, utilisation
from trainer.model import Transformer

# dim, layers, heads -> parameters, from the set-up guide of a fork of facebookresearch/lingua.
GUIDE = {(512, 8, 8): 27_535_872, (768, 12, 12): 85_350_144, (1024, 16, 16): 206_083_072}


@pytest.mark.parametrize(("shape", "params"), GUIDE.items())
def test_parameters_are_the_guides(shape: tuple[int, int, int], params: int) -> None:
    dim, layers, heads = shape
    config = ModelConfig(dim=dim, n_layers=layers, n_heads=heads)
    assert count_parameters(config, BYTE_VOCABULARY).total == params
    with torch.device("meta"):
        model = Transformer(config, BYTE_VOCABULARY, 16)
    assert sum(parameter.numel() for parameter in model.parameters()) == params


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_flops_agree_with_torchs_counter(kv_heads: int | None) -> None:
    config = ModelConfig(dim=128, n_layers=3, n_heads=4, n_kv_heads=kv_heads)
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


def test_utilisation_of_an_unknown_gpu_is_unknown() -> None:
    assert utilisation(1000.0, 1e9, None) is None
    assert utilisation(1000.0, 1e9, 10.0) == pytest.approx(0.1)


def test_utilisation_is_the_published_one() -> None:
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
