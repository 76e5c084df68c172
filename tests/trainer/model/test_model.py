import math

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from trainer.config import BYTE_VOCABULARY, FLEX_BLOCK, ModelConfig
from trainer.model.masks import DocumentBorder
from trainer.model.model import Transformer

SMALL = ModelConfig(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, multiple_of=32)


def build(config: ModelConfig, length: int = 32, seed: int = 0) -> Transformer:
    model = Transformer(config, BYTE_VOCABULARY, length)
    model.init_weights(seed)
    return model


def plain_forward(model: Transformer, tokens_BT: Tensor) -> Tensor:
    """Compute the logits by the book, one position and one head at a time, in float64."""
    config, weights = model.config, {k: v.double() for k, v in model.state_dict().items()}

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + config.norm_eps) * weight

    def rope(x: Tensor, position: int) -> Tensor:
        half = config.head_dim // 2
        out = x.clone()
        for i in range(half):
            angle = position * config.rope_theta ** (-2 * i / config.head_dim)
            out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
            out[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
        return out

    def attend(x_TD: Tensor, prefix: str) -> Tensor:
        q, k, v = (x_TD @ weights[f"{prefix}.{name}.weight"].T for name in ("wq", "wk", "wv"))
        width, group = config.head_dim, config.n_heads // config.kv_heads
        out = torch.zeros_like(x_TD)
        for head in range(config.n_heads):
            mine, shared = head * width, head // group * width
            keys = [rope(k[t, shared : shared + width], t) for t in range(len(x_TD))]
            for t in range(len(x_TD)):
                query = rope(q[t, mine : mine + width], t)
                scores = torch.stack([query @ keys[u] / math.sqrt(width) for u in range(t + 1)])
                mixed = torch.softmax(scores, 0) @ v[: t + 1, shared : shared + width]
                out[t, mine : mine + width] = mixed
        return out @ weights[f"{prefix}.wo.weight"].T

    rows = []
    for tokens_T in tokens_BT:
        x = weights["tok_embeddings.weight"][tokens_T]
        for i in range(config.n_layers):
            layer = f"layers.{i}"
            x = x + attend(norm(x, weights[f"{layer}.attention_norm.weight"]), f"{layer}.attention")
            y = norm(x, weights[f"{layer}.ffn_norm.weight"])
            gate = y @ weights[f"{layer}.feed_forward.w1.weight"].T
            up = y @ weights[f"{layer}.feed_forward.w3.weight"].T
            silu = gate / (1 + torch.exp(-gate))
            x = x + (silu * up) @ weights[f"{layer}.feed_forward.w2.weight"].T
        rows.append(norm(x, weights["norm.weight"]) @ weights["output.weight"].T)
    return torch.stack(rows)


def test_logits_match_the_formulas() -> None:
    model = build(SMALL)
    tokens = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        model(tokens).double(), plain_forward(model, tokens), rtol=1e-4, atol=1e-4
    )


def test_the_future_does_not_leak() -> None:
    model = build(SMALL)
    tokens = torch.randint(0, 256, (1, 16), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[0, 10] = (changed[0, 10] + 1) % 256
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[0, :10], after[0, :10], rtol=0, atol=1e-6)
    assert not torch.allclose(before[0, 10:], after[0, 10:])


@pytest.mark.parametrize(
    ("window", "border", "seen_by"),
    [
        (3, None, [5, 6, 7]),
        (3, DocumentBorder(256, opens=True), [5, 6]),
        (None, DocumentBorder(256, opens=True), [5, 6]),
        (None, DocumentBorder(256, opens=False), [5, 6, 7]),
    ],
)
def test_masks_hide_a_token_from_others(
    window: int | None, border: DocumentBorder | None, seen_by: list[int]
) -> None:
    """In one layer, a change of token 5 reaches those that attend to it; token 7 is the border."""
    config = SMALL.model_copy(update={"n_layers": 1, "sliding_window": window})
    model = Transformer(config, BYTE_VOCABULARY, 32, border)
    model.init_weights(0)
    tokens = torch.randint(0, 256, (1, 16), generator=torch.Generator().manual_seed(1))
    tokens[0, 7] = 256
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 256
    difference = (model(tokens) - model(changed)).abs().amax(dim=-1)
    assert (difference[0] > 1e-6).nonzero().flatten().tolist() == seen_by


def test_masks_are_in_blocks_in_training_alone() -> None:
    """With a window of one token, a block of queries has one block of keys, in part."""
    config = SMALL.model_copy(update={"sliding_window": 1})
    model = Transformer(config, BYTE_VOCABULARY, 3 * FLEX_BLOCK)
    model.masks_blocks = True
    tokens = torch.zeros((1, 3 * FLEX_BLOCK), dtype=torch.int64)
    mask = model._mask(tokens)
    assert isinstance(mask, BlockMask) and mask.full_kv_num_blocks is not None
    assert mask.kv_num_blocks.tolist() == [[[1, 1, 1]]]
    assert mask.full_kv_num_blocks.tolist() == [[[0, 0, 0]]]
    assert isinstance(model.eval()._mask(tokens), Tensor)


@pytest.mark.parametrize("one_kernel", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_residual_stream_begins_in_its_dtype(
    one_kernel: bool, dtype: torch.dtype | None
) -> None:
    model = Transformer(SMALL, BYTE_VOCABULARY, 32, residual_dtype=dtype)
    model.init_weights(0)
    model.one_kernel = one_kernel
    assert model.embed(torch.zeros((1, 4), dtype=torch.int64)).dtype == (dtype or torch.float32)


def test_weights_depend_on_the_seed_alone() -> None:
    one, same, other = build(SMALL, seed=1), build(SMALL, seed=1), build(SMALL, seed=2)
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.output.weight, other.output.weight)


def test_weights_have_the_guides_standard_deviation() -> None:
    model = build(ModelConfig(dim=256, n_layers=1, n_heads=4))
    # Variance of a normal cut at 3 sigma: 1 - 2*3*phi(3) / (2*Phi(3) - 1).
    cut = 1 - 6 * math.exp(-4.5) / math.sqrt(2 * math.pi) / math.erf(3 / math.sqrt(2))
    for name, fan in (("wq", 256), ("w1", 256), ("w2", model.config.ffn_hidden)):
        weight = next(p for n, p in model.state_dict().items() if n.endswith(f"{name}.weight"))
        sigma = fan**-0.5
        assert weight.abs().max() <= 3 * sigma
        assert weight.var().item() == pytest.approx(sigma**2 * cut, rel=0.02)


def test_initial_loss_follows_from_the_init() -> None:
    """The logits are normal with variance s^2 around 0, so the loss is ln V + s^2/2.

    The final norm makes the squares of the hidden vector sum to d; with weights of variance
    cut / d the logits have s^2 = cut, where cut is the loss of variance by the truncation. Targets
    that the model cannot know add nothing, and ln of the mean of exp(logit) is s^2/2.
    """
    cut = 1 - 6 * math.exp(-4.5) / math.sqrt(2 * math.pi) / math.erf(3 / math.sqrt(2))
    expected = math.log(BYTE_VOCABULARY) + cut / 2
    assert expected == pytest.approx(6.04, abs=0.01)
    model = build(ModelConfig(dim=512, n_layers=8, n_heads=8), length=256)
    tokens = torch.randint(0, 256, (4, 257), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        loss = model(tokens[:, :-1], tokens[:, 1:])
    assert loss.item() == pytest.approx(expected, abs=0.1)
