"""The models of transformers that ours can be, and the config.json that describes them.

Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from trainer.config import ModelConfig, RopeScaling
from trainer.folder.described_model import DescribedModel, read_json, scaling_of
from trainer.problems import ConfigError, Problem
from trainer.settings import validate

HUB_CONFIG = "config.json"
"""The model of an export, or of transformers."""

HUB_KEYS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn_hidden": "intermediate_size",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "weight_tying": "tie_word_embeddings",
    "vocab_size": "vocab_size",
}
"""Name in `FACTS`, or vocab_size, -> key of config.json."""

DEFAULTS = {"rope_theta": 10000.0, "norm_eps": 1e-6, "weight_tying": False}
"""Name in `FACTS` -> value if config.json is without the key."""

IMPLIED = {"norm_type": "rmsnorm", "activation": "swiglu", "pos_embed": "rope"}
"""Name in `FACTS` -> value that all of `HUB_MODELS` have."""


@dataclass(frozen=True)
class HubModel:
    """A kind of model of transformers that ours can be."""

    architecture: str
    """Its class."""
    only: Mapping[str, Any]
    """Keys of config.json with the one value that our model has; they may be missing."""
    implied: Mapping[str, Any]
    """Name in `FACTS` -> value that every such model has."""
    defaults: Mapping[str, Any]
    """Name in `FACTS` -> value if config.json is without the key."""


HUB_MODELS = {
    "llama": HubModel(
        architecture="LlamaForCausalLM",
        only={
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "quantization_config": None,
        },
        implied={"qk_norm": False, **IMPLIED},
        defaults=DEFAULTS,
    ),
    "qwen3": HubModel(
        architecture="Qwen3ForCausalLM",
        only={
            "hidden_act": "silu",
            "attention_bias": False,
            "use_sliding_window": False,
            "quantization_config": None,
        },
        implied={"qk_norm": True, **IMPLIED},
        defaults={"n_kv_heads": 32, "head_dim": 128, **DEFAULTS},
    ),
}
"""model_type of config.json -> the model."""


def hub_model(model: ModelConfig) -> str:
    """Return the model_type of the model of transformers that is most like one of ours."""
    return "qwen3" if model.qk_norm else "llama"


def of_transformers(file: Path) -> DescribedModel:
    """Read transformers' config.json. Raises ConfigError if its model cannot be ours."""
    values = read_json(file)
    model_type = values.get("model_type")
    hub = HUB_MODELS.get(model_type) if isinstance(model_type, str) else None
    if hub is None:
        expected = " or ".join(map(repr, HUB_MODELS))
        message = f"found {model_type!r}; expected {expected}: other models are not supported"
        raise ConfigError(str(file), [Problem(("model_type",), message)])
    problems = [
        Problem((key,), f"found {found!r}; expected {only!r}: other models are not supported")
        for key, only in hub.only.items()
        if (found := values.get(key, only)) != only
    ]
    rope_key, rope = _find_rope(values)
    scaling = None
    try:
        scaling = _read_scaling(rope)
    except ConfigError as error:
        problems += [replace(item, path=(rope_key, *item.path)) for item in error.problems]
    needed = ("dim", "n_layers", "n_heads", "ffn_hidden", "vocab_size")
    problems += [
        Problem((HUB_KEYS[name],), f"found {found!r}; expected a positive integer")
        for name in needed
        if type(found := values.get(HUB_KEYS[name])) is not int or found < 1
    ]
    if problems:
        raise ConfigError(str(file), problems)
    heads = values["num_attention_heads"]
    # transformers leaves some keys out or null.
    sizes = {"n_kv_heads": heads, "head_dim": values["hidden_size"] // heads}
    given = {name: values[key] for name, key in HUB_KEYS.items() if values.get(key) is not None}
    known = {**sizes, **hub.defaults, **given, **hub.implied, "rope_scaling": scaling}
    keys = {**HUB_KEYS, **dict.fromkeys(hub.implied, "model_type"), "rope_scaling": rope_key}
    if rope.get("rope_theta") is not None:
        known["rope_theta"], keys["rope_theta"] = rope["rope_theta"], f"{rope_key}.rope_theta"
    return DescribedModel(str(file), known, keys, model_type)


def _find_rope(values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the key that describes the rotary embedding, and what it says."""
    key = "rope_parameters"
    if values.get("rope_scaling") and not values.get(key):
        key = "rope_scaling"  # before transformers 5
    rope = values.get(key) or {}
    return key, rope if isinstance(rope, Mapping) else {"rope_type": rope}


def _read_scaling(rope: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the scaling of the rotary embedding. Raises ConfigError if ours has no such one."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    kinds = get_args(RopeScaling.model_fields["rope_type"].annotation)
    if kind not in kinds:
        expected = ", ".join(map(repr, ("default", *kinds)))
        raise ConfigError("", [Problem(("rope_type",), f"found {kind!r}; expected {expected}")])
    known = {key: rope[key] for key in RopeScaling.model_fields if rope.get(key) is not None}
    return scaling_of(validate(RopeScaling, {**known, "rope_type": kind}, ""))
