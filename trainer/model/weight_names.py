"""Names and shapes of the weights: ours, which are lingua's, and those of transformers' Llama and
Qwen3."""

from trainer.config import ModelConfig
from trainer.flops import block_shapes

WEIGHTS = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
}
"""Our module name -> transformers' name."""

LAYER_WEIGHTS = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""The same for the modules of each layer."""

Shape = tuple[int, ...]


def weight_shapes(model: ModelConfig, vocab_size: int) -> dict[str, Shape]:
    """Return the shapes of a model's weights, under our names."""
    shapes: dict[str, Shape] = {"tok_embeddings": (vocab_size, model.dim), "norm": (model.dim,)}
    if not model.weight_tying:
        shapes["output"] = (vocab_size, model.dim)
    block = block_shapes(model)
    for layer in range(model.n_layers):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in block.items()}
    return {f"{name}.weight": shape for name, shape in shapes.items()}


def transformers_name(name: str) -> str:
    """Return transformers' name of one of our weights."""
    module = name.removesuffix(".weight")
    if not module.startswith("layers."):
        return f"{WEIGHTS[module]}.weight"
    _, layer, part = module.split(".", 2)
    return f"model.layers.{layer}.{LAYER_WEIGHTS[part]}.weight"
