"""Models from elsewhere: transformers' Llama and Qwen3, and lingua's with complex numbers."""

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.trainer.model import scalings
from trainer.config import ModelConfig
from trainer.folder.initial_weights import find
from trainer.model.model import Transformer

V = 304
SHAPE: dict[str, Any] = {"dim": 64, "n_layers": 2, "n_heads": 4, "multiple_of": 64}
LLAMA3 = {**scalings.LLAMA3, "original_max_position_embeddings": 16}
TOKENS = torch.randint(V, (3, 32), generator=torch.Generator().manual_seed(0))


def make_llama(changes: dict[str, Any]) -> Any:
    """Return transformers' model of a shape, with random weights, large enough to matter."""
    model = ModelConfig.model_validate({**SHAPE, **changes})
    scaling = changes.get("rope_scaling", {"rope_type": "default"})
    config_of, build = (
        (Qwen3Config, Qwen3ForCausalLM) if model.qk_norm else (LlamaConfig, LlamaForCausalLM)
    )
    config = config_of(
        vocab_size=V,
        hidden_size=model.dim,
        intermediate_size=192,  # int(8/3 64) rounded up to a multiple of 64
        num_hidden_layers=model.n_layers,
        num_attention_heads=model.n_heads,
        num_key_value_heads=model.kv_heads,
        head_dim=model.head_dim,
        rope_parameters={"rope_theta": model.rope_theta, **scaling},
        rms_norm_eps=model.norm_eps,
        tie_word_embeddings=model.weight_tying,
    )
    made = build(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0, 0.15, generator=generator)
    return made


def loaded(path: Path, changes: dict[str, Any], fused: bool = True) -> Transformer:
    """Return our model with the weights at a path, as a run loads them."""
    config = ModelConfig.model_validate({**SHAPE, **changes})
    model = Transformer(config, V, TOKENS.shape[1], fused=fused)
    model.init_weights(0)
    weights = find(path)
    weights.check(config, V)
    weights.load(model)
    return model


def write_as_transformers_4(folder: Path, changes: dict[str, Any]) -> None:
    """Rewrite the positions in config.json: rope_theta at the top, the scaling beside it."""
    config = folder / "config.json"
    values = json.loads(config.read_text())
    theta = values.pop("rope_parameters")["rope_theta"]
    old = {"rope_theta": theta, "rope_scaling": changes.get("rope_scaling")}
    config.write_text(json.dumps({**values, **old}))


def lingua_rows(weight: Tensor, heads: int) -> Tensor:
    """Return wq or wk of lingua, whose pairs of a head are neighbours, from transformers'."""
    rows, dim = weight.shape
    return weight.view(heads, 2, rows // heads // 2, dim).transpose(1, 2).reshape(rows, dim)


def lingua_weights(llama: LlamaForCausalLM) -> dict[str, Tensor]:
    """Return what lingua's LMTransformer would call state_dict()."""
    config, theirs = llama.config, llama.state_dict()
    weights = {
        "tok_embeddings.weight": theirs["model.embed_tokens.weight"],
        "norm.weight": theirs["model.norm.weight"],
    }
    tied = config.tie_word_embeddings
    weights["output.tied_module.weight" if tied else "output.weight"] = theirs["lm_head.weight"]
    for layer in range(config.num_hidden_layers):
        ours, them = f"layers.{layer}.", f"model.layers.{layer}."
        attention, mlp = f"{them}self_attn.", f"{them}mlp."
        q, k = theirs[f"{attention}q_proj.weight"], theirs[f"{attention}k_proj.weight"]
        weights |= {
            f"{ours}attention.wq.weight": lingua_rows(q, config.num_attention_heads),
            f"{ours}attention.wk.weight": lingua_rows(k, config.num_key_value_heads),
            f"{ours}attention.wv.weight": theirs[f"{attention}v_proj.weight"],
            f"{ours}attention.wo.weight": theirs[f"{attention}o_proj.weight"],
            f"{ours}feed_forward.w1.weight": theirs[f"{mlp}gate_proj.weight"],
            f"{ours}feed_forward.w2.weight": theirs[f"{mlp}down_proj.weight"],
            f"{ours}feed_forward.w3.weight": theirs[f"{mlp}up_proj.weight"],
            f"{ours}attention_norm.weight": theirs[f"{them}input_layernorm.weight"],
            f"{ours}ffn_norm.weight": theirs[f"{them}post_attention_layernorm.weight"],
        }
    return weights


def lingua_logits(weights: dict[str, Tensor], config: LlamaConfig) -> Tensor:
    """Run lingua's model: neighbours in a head are a complex number, which the position turns."""
    width, length = config.head_dim, TOKENS.shape[1]
    theta = config.rope_parameters["rope_theta"]
    speeds = 1.0 / theta ** (torch.arange(0, width, 2)[: width // 2].float() / width)
    angles = torch.outer(torch.arange(length).float(), speeds)
    turns = torch.polar(torch.ones_like(angles), angles)

    def norm(x: Tensor, name: str) -> Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps)
        return x * scale * weights[name]

    def turned(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * turns[None, :, None]).flatten(-2)

    x = F.embedding(TOKENS, weights["tok_embeddings.weight"])
    for layer in range(config.num_hidden_layers):
        block = f"layers.{layer}."
        h = norm(x, f"{block}attention_norm.weight")
        q, k, v = (
            F.linear(h, weights[f"{block}attention.{name}.weight"]).unflatten(-1, (-1, width))
            for name in ("wq", "wk", "wv")
        )
        groups = config.num_attention_heads // config.num_key_value_heads
        k, v = (part.repeat_interleave(groups, dim=2) for part in (turned(k), v))
        scores = torch.einsum("bqhe,bkhe->bhqk", turned(q), k) / width**0.5
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = torch.einsum("bhqk,bkhe->bqhe", scores.masked_fill(future, -1e30).softmax(-1), v)
        x = x + F.linear(mixed.flatten(2), weights[f"{block}attention.wo.weight"])
        h = norm(x, f"{block}ffn_norm.weight")
        w1, w2, w3 = (weights[f"{block}feed_forward.w{number}.weight"] for number in (1, 2, 3))
        x = x + F.linear(F.silu(F.linear(h, w1)) * F.linear(h, w3), w2)
    tied = config.tie_word_embeddings
    output = weights["output.tied_module.weight" if tied else "output.weight"]
    return F.linear(norm(x, "norm.weight"), output)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """torch warns of a missing process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def save_alone(state: dict[str, Any], folder: Path) -> None:
    with alone():
        dcp.save(state, checkpoint_id=folder, no_dist=True)


def write_lingua(folder: Path, llama: LlamaForCausalLM, changes: dict[str, Any]) -> None:
    """Write a checkpoint of lingua, with its optimizer's state, and consolidate it."""
    weights = lingua_weights(llama)
    moments = {name: {"exp_avg": torch.ones_like(w), "step": 3.0} for name, w in weights.items()}
    groups = [{"lr": 1e-3, "betas": (0.9, 0.95), "params": list(weights)}]
    state = {"model": weights, "optim": {"state": moments, "param_groups": groups}}
    save_alone(state, folder)
    model = {
        **{"dim": 512, "n_layers": 8, "head_dim": None, "n_heads": None, "n_kv_heads": None},
        **{"ffn_dim_multiplier": None, "multiple_of": 256, "norm_eps": 1e-5, "rope_theta": 10000.0},
        **{"init_base_std": None, "init_std_factor": "disabled", "max_seqlen": 1024, "seed": 42},
        **{"vocab_size": V, "weight_tying": False, "sliding_window": None, **SHAPE, **changes},
    }
    params = json.dumps({"name": "lingua", "model": model, "steps": 1000})
    (folder / "params.json").write_text(params)
    (folder / "train_state_00000.json").write_text('{"step": 3}')
    (folder / "consolidated").mkdir()
    with alone():
        dcp_to_torch_save(folder, folder / "consolidated" / "consolidated.pth")
    (folder / "consolidated" / "params.json").write_text(params)
