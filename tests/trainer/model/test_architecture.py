"""The model's architecture by key, against the formulas and against transformers."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.operations import Launched
from tests.trainer.model.scalings import LINEAR, LLAMA3
from trainer.config import BYTE_VOCABULARY, ActivationCheckpointing, ModelConfig, OptimConfig
from trainer.execution.choices import Choices
from trainer.execution.kernels import use
from trainer.flops import count_parameters, flops_per_token
from trainer.model import linear
from trainer.model.block import Attention, Block, FeedForward
from trainer.model.model import Transformer
from trainer.model.optimizer import build_optimizer
from trainer.model.weight_names import weight_shapes

SHAPE = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "multiple_of": 16}
SHAPE |= {"norm_eps": 0.1, "rope_theta": 500.0}  # what is not the default shows if it is lost
ALTERNATIVES: dict[str, list[Any]] = {
    "qk_norm": [True],
    "norm_type": ["layernorm"],
    "activation": ["gelu", "relu2"],
    "pos_embed": ["none"],
    "rope_scaling": [LINEAR, LLAMA3],
}
EACH = [{key: value} for key, values in ALTERNATIVES.items() for value in values]
TOGETHER = [
    {"qk_norm": True, "norm_type": "layernorm", "activation": "relu2", "rope_scaling": LLAMA3},
    {"qk_norm": True, "activation": "gelu", "pos_embed": "none", "weight_tying": True},
]
EVERY = pytest.mark.parametrize("changes", [{}, *EACH, *TOGETHER], ids=str)


def build(changes: dict[str, Any], fused: bool = True, length: int = 16) -> Transformer:
    """Return a model whose norms are not all ones, which would hide one that is lost."""
    config = ModelConfig.model_validate({**SHAPE, **changes})
    model = Transformer(config, BYTE_VOCABULARY, length, fused=fused)
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model


def draw_tokens(length: int = 16) -> Tensor:
    return torch.randint(256, (2, length), generator=torch.Generator().manual_seed(2))


def plain_logits(model: Transformer, tokens_BT: Tensor) -> Tensor:
    """Compute the logits by the formulas, in float64, with complex numbers as rotations."""
    config = model.config
    weights = {name: weight.double() for name, weight in model.state_dict().items()}
    length, width = tokens_BT.shape[1], config.head_dim

    def normed(x: Tensor, name: str, kind: str = config.norm_type) -> Tensor:
        centred = x - x.mean(-1, keepdim=True) if kind == "layernorm" else x
        power = centred.square().mean(-1, keepdim=True)
        return centred / (power + config.norm_eps).sqrt() * weights[name]

    def turned(x_BTHE: Tensor) -> Tensor:
        half = width // 2
        angles = torch.outer(torch.arange(length).double(), plain_frequencies(config))
        turns = torch.polar(torch.ones_like(angles), angles)[:, None]
        y = torch.complex(x_BTHE[..., :half], x_BTHE[..., half:]) * turns
        return torch.cat((y.real, y.imag), -1)

    def heads(x: Tensor, block: str, name: str) -> Tensor:
        y = (x @ weights[f"{block}w{name}.weight"].T).unflatten(-1, (-1, width))
        if config.qk_norm and name != "v":
            y = normed(y, f"{block}{name}_norm.weight", "rmsnorm")
        if config.pos_embed == "rope" and name != "v":
            y = turned(y)
        return y if name == "q" else y.repeat_interleave(config.n_heads // config.kv_heads, dim=2)

    def ffn(x: Tensor, block: str) -> Tensor:
        y = x @ weights[f"{block}w1.weight"].T
        if config.activation == "swiglu":
            y = y / (1 + (-y).exp()) * (x @ weights[f"{block}w3.weight"].T)
        elif config.activation == "gelu":
            y = y * (1 + torch.erf(y / math.sqrt(2))) / 2
        else:
            y = torch.where(y > 0, y * y, 0.0)
        return y @ weights[f"{block}w2.weight"].T

    x = weights["tok_embeddings.weight"][tokens_BT]
    future = torch.ones(length, length).triu(1).bool()
    for layer in range(config.n_layers):
        block = f"layers.{layer}."
        h = normed(x, f"{block}attention_norm.weight")
        q, k, v = (heads(h, f"{block}attention.", name) for name in "qkv")
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / math.sqrt(width)
        shares = scores.masked_fill(future, -torch.inf).softmax(-1)
        mixed = torch.einsum("bhqk,bkhe->bqhe", shares, v).flatten(2)
        x = x + mixed @ weights[f"{block}attention.wo.weight"].T
        x = x + ffn(normed(x, f"{block}ffn_norm.weight"), f"{block}feed_forward.")
    output = "tok_embeddings.weight" if config.weight_tying else "output.weight"
    return normed(x, "norm.weight") @ weights[output].T


def plain_frequencies(config: ModelConfig) -> Tensor:
    """Return the rotary frequencies, one by one, as Llama 3.1's reference code does."""
    scaling, found = config.rope_scaling, []
    for pair in range(config.head_dim // 2):
        frequency = config.rope_theta ** (-2 * pair / config.head_dim)
        if scaling is not None and scaling.rope_type == "linear":
            frequency /= scaling.factor
        elif scaling is not None:
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            length = scaling.original_max_position_embeddings
            assert low and high and length
            wavelength = 2 * math.pi / frequency
            if wavelength > length / low:
                frequency /= scaling.factor
            elif wavelength > length / high:
                smooth = (length / wavelength - low) / (high - low)
                frequency = (1 - smooth) * frequency / scaling.factor + smooth * frequency
        found.append(frequency)
    return torch.tensor(found, dtype=torch.float64)


@EVERY
def test_logits_are_those_of_the_formulas(changes: dict[str, Any]) -> None:
    """With separate and fused matmuls, and with the kernels in one that fit."""
    tokens = draw_tokens()
    found = []
    for fused, one_kernel in ((False, False), (True, False), (True, True)):
        model = build(changes, fused)
        use(Choices("fp32", False, fused, 0, "mkl", 1, "torch", fused_pointwise=one_kernel), model)
        found.append(model(tokens).double())
    expected = plain_logits(model, tokens)
    assert expected.std() > 0.5
    for logits in found:
        torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("changes", EACH, ids=str)
def test_each_key_changes_the_logits(changes: dict[str, Any]) -> None:
    tokens = draw_tokens()
    usual = build({})(tokens)
    assert (build(changes)(tokens) - usual).abs().max() > 0.01


@EVERY
def test_parameters_and_flops_are_counted_by_torch(changes: dict[str, Any]) -> None:
    model = build(changes, length=64)
    config = model.config
    params = sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(config, BYTE_VOCABULARY).total == params
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if config.weight_tying:
        shapes.pop("output.weight", None)
    assert weight_shapes(config, BYTE_VOCABULARY) == shapes
    tokens = draw_tokens(64)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, tokens).backward()
    # torch counts no FLOPs of norms, which are in N.
    norms = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 1)
    expected = flops_per_token(config, BYTE_VOCABULARY, 64) - 6 * norms
    assert counter.get_total_flops() == expected * tokens.numel()


@pytest.mark.parametrize(("ac_mode", "again"), [("none", 0), ("selective", 0), ("full", 1)])
def test_activation_checkpointing_repeats_what_it_says(
    ac_mode: ActivationCheckpointing, again: int
) -> None:
    """Counted by torch in a step: no matmuls of the two blocks, or all but w2's, whose results the
    backward pass does not need."""
    model, tokens = build({}, length=64), draw_tokens(64)
    for layer in model.layers:
        layer.ac_mode = ac_mode
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        model(tokens, tokens)
    with FlopCounterMode(display=False) as step:
        model(tokens, tokens).backward()
    once = forward.get_total_flops()
    output, w2 = (2 * tokens.numel() * 32 * width for width in (BYTE_VOCABULARY, 96))
    assert step.get_total_flops() == 3 * once + again * (once - output - 2 * w2)


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)
def test_selective_checkpointing_keeps_what_a_cpu_computes_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Matmuls of oneDNN, whose FLOPs torch does not count, and attention."""
    monkeypatch.setattr(linear, "is_large_matmul", lambda *sizes: True)
    slow = ("onednn_linear", "_scaled_dot_product_flash_attention_for_cpu")
    counts, tokens = {}, draw_tokens(64)
    modes: tuple[ActivationCheckpointing, ...] = ("none", "selective", "full")
    for ac_mode in modes:
        model = build({}, length=64)
        use(Choices("fp32", False, True, 0, "onednn", 1, "torch"), model)
        for layer in model.layers:
            layer.ac_mode = ac_mode
        with Launched() as operations:
            model(tokens, tokens).backward()
        counts[ac_mode] = [operations.counts[name] for name in slow]
    assert counts["selective"] == counts["none"]
    assert all(more > once for more, once in zip(counts["full"], counts["none"], strict=True))


def test_parameters_by_hand() -> None:
    """dim 32, 2 layers, 4 heads of 8, 2 of them for keys and values; h = int(85.3) -> 96."""
    attention = 32 * 32 + 2 * 16 * 32 + 32 * 32
    rest = 2 * 258 * 32 + 32
    for changes, of_layer in (
        ({}, attention + 3 * 32 * 96 + 64),
        ({"qk_norm": True}, attention + 3 * 32 * 96 + 64 + 16),
        ({"activation": "gelu"}, attention + 2 * 32 * 96 + 64),
        ({"norm_type": "layernorm", "pos_embed": "none"}, attention + 3 * 32 * 96 + 64),
    ):
        config = ModelConfig.model_validate({**SHAPE, **changes})
        assert count_parameters(config, 258).total == 2 * of_layer + rest, changes


@given(st.fixed_dictionaries({key: st.sampled_from([None, *v]) for key, v in ALTERNATIVES.items()}))
@settings(max_examples=12)
def test_a_step_reaches_every_parameter(drawn: dict[str, Any]) -> None:
    """In bf16 over fp32 weights, in any combination that the settings allow."""
    changes = {key: value for key, value in drawn.items() if value is not None}
    if "pos_embed" in changes:
        changes.pop("rope_scaling", None)
    model = build(changes)
    tokens = draw_tokens(17)
    optimizer = build_optimizer(
        model, OptimConfig(name="muon" if "qk_norm" in changes else "adamw")
    )
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    optimizer.step(optimizer.grad_norm())
    for name, weight in model.named_parameters():
        assert weight.isfinite().all() and not torch.equal(weight, before[name]), name


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_norms_of_heads_are_vectors_without_decay(name: str) -> None:
    """With gradients of zero only weight decay moves a weight."""
    model = build({"qk_norm": True, "norm_type": "layernorm", "activation": "relu2"})
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(model, OptimConfig(name=name, lr=0.1, weight_decay=0.5)).step()
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert moved == {key for key, p in model.named_parameters() if p.ndim == 2}
    assert len([key for key in before if key.endswith(("q_norm.weight", "k_norm.weight"))]) == 4


def test_kernels_are_used_only_where_they_fit() -> None:
    for changes, fits in (
        ({}, (True, True, True, True)),
        ({"qk_norm": True}, (False, True, True, True)),
        ({"pos_embed": "none", "activation": "gelu"}, (False, False, True, True)),
        ({"activation": "relu2", "norm_type": "layernorm"}, (True, False, False, False)),
    ):
        model = build(changes)
        use(Choices("bf16", True, True, 0, "mkl", 1, "torch", fused_pointwise=True), model)
        found = {(type(m), m.one_kernel) for m in model.modules() if hasattr(m, "one_kernel")}
        fits_by_class = zip((Attention, FeedForward, Block, Transformer), fits, strict=True)
        assert found == set(fits_by_class), changes
