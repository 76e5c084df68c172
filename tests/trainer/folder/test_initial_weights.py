"""Weights from elsewhere. The truth: transformers' Llama, and lingua's with complex numbers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, Qwen3Config

from tests.trainer.folder.other_models import (
    LLAMA3,
    SHAPE,
    TOKENS,
    lingua_logits,
    lingua_weights,
    loaded,
    make_llama,
    write_as_transformers_4,
    write_lingua,
)
from tests.trainer.model.scalings import LINEAR
from tests.trainer.small_runs import ALONE, make_run, make_summary
from trainer.commands import export
from trainer.config import ModelConfig
from trainer.folder.checkpoint import load_weights
from trainer.folder.checkpoint_state import CheckpointError
from trainer.folder.hub_model import HUB_KEYS, of_transformers
from trainer.folder.initial_weights import find
from trainer.folder.source import find_source
from trainer.model.model import Transformer
from trainer.problems import ConfigError

SHAPES = pytest.mark.parametrize(
    "changes",
    [
        {"n_kv_heads": 2, "rope_theta": 500000.0, "norm_eps": 1e-3},
        {"n_kv_heads": 1, "weight_tying": True},
        {"head_dim": 32, "n_heads": 4},
    ],
    ids=["gqa", "mqa tied", "wide heads"],
)


@torch.no_grad()
def assert_same_logits(model: Transformer, expected: Tensor) -> None:
    assert expected.std() > 0.5
    torch.testing.assert_close(model(TOKENS), expected, atol=1e-5, rtol=0)


@SHAPES
@torch.no_grad()
def test_a_llama_gives_transformers_logits(tmp_path: Path, changes: dict[str, Any]) -> None:
    llama = make_llama(changes)
    expected = llama(TOKENS).logits
    llama.save_pretrained(tmp_path / "one")
    llama.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert_same_logits(loaded(tmp_path / "one", changes), expected)
    assert_same_logits(loaded(tmp_path / "shards", changes, fused=False), expected)


@SHAPES
@torch.no_grad()
def test_a_checkpoint_of_lingua_gives_its_logits(tmp_path: Path, changes: dict[str, Any]) -> None:
    llama = make_llama(changes)
    write_lingua(tmp_path / "0000000003", llama, changes)
    expected = lingua_logits(lingua_weights(llama), llama.config)
    torch.testing.assert_close(llama(TOKENS).logits, expected, atol=1e-5, rtol=0)
    for path, fused in (
        (tmp_path, True),
        (tmp_path / "0000000003", False),
        (tmp_path / "0000000003" / "consolidated", True),
        (tmp_path / "0000000003" / "consolidated" / "consolidated.pth", False),
    ):
        assert_same_logits(loaded(path, changes, fused), expected)


@torch.no_grad()
def test_a_tied_output_matrix_may_be_in_the_file_too(tmp_path: Path) -> None:
    """As others than transformers save it; it is the embedding."""
    llama = make_llama({"weight_tying": True})
    llama.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    assert "lm_head.weight" not in weights
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, file)
    assert_same_logits(loaded(tmp_path, {"weight_tying": True}), llama(TOKENS).logits)


@torch.no_grad()
def test_bfloat16_is_read(kinds: Path, gqa: dict[str, Any]) -> None:
    file = kinds / "hf" / "model.safetensors"
    save_file({name: w.bfloat16() for name, w in load_file(file).items()}, file)
    llama = make_llama(gqa)
    for parameter in llama.parameters():
        parameter.copy_(parameter.bfloat16())
    assert_same_logits(loaded(kinds / "hf", gqa), llama(TOKENS).logits)


@torch.no_grad()
def test_a_config_of_transformers_4_is_read(kinds: Path, gqa: dict[str, Any]) -> None:
    """It wrote rope_theta at the top, and left out what has its default."""
    write_as_transformers_4(kinds / "hf", gqa)
    config = kinds / "hf" / "config.json"
    values = json.loads(config.read_text())
    for key in ("head_dim", "attention_bias", "mlp_bias", "tie_word_embeddings", "hidden_act"):
        del values[key]
    config.write_text(json.dumps(values))
    assert_same_logits(loaded(kinds / "hf", gqa), make_llama(gqa)(TOKENS).logits)


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
@pytest.mark.parametrize("null", [False, True])
def test_what_a_config_leaves_out_has_transformers_default(
    tmp_path: Path, kind: Any, null: bool
) -> None:
    """A single layer; keys are missing, or null as some have them."""
    theirs = kind(hidden_size=64, num_hidden_layers=1, num_attention_heads=4)
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    values = {key: getattr(theirs, key) for key in (*sizes, "vocab_size")}
    others = ("num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "rope_parameters")
    if null:
        values |= dict.fromkeys((*others, "head_dim", "rope_theta", "rope_scaling"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": theirs.model_type, **values}))
    found = of_transformers(tmp_path / "config.json").values
    assert {name: found[name] for name in HUB_KEYS} == {
        "rope_theta": theirs.rope_parameters["rope_theta"],
        **{name: getattr(theirs, key) for name, key in HUB_KEYS.items() if name != "rope_theta"},
    }
    assert found["rope_scaling"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": LINEAR, "rope_theta": 500.0},
        {"rope_scaling": LLAMA3},
        {"qk_norm": True, "n_kv_heads": 2, "head_dim": 32},
        {"qk_norm": True, "rope_scaling": LLAMA3, "weight_tying": True},
    ],
    ids=["linear", "llama3", "qwen3", "qwen3 llama3"],
)
@torch.no_grad()
def test_scaled_positions_and_a_qwen3_are_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    """As transformers 5 and 4 write them."""
    theirs = make_llama(changes)
    expected = theirs(TOKENS).logits
    theirs.save_pretrained(tmp_path)
    assert_same_logits(loaded(tmp_path, changes), expected)
    write_as_transformers_4(tmp_path, changes)
    assert_same_logits(loaded(tmp_path, changes, fused=False), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_kv_heads": 2, "rope_theta": 1000.0},
        {"n_kv_heads": 2, "qk_norm": True, "rope_scaling": LLAMA3},
    ],
    ids=["llama", "qwen3"],
)
@torch.no_grad()
def test_our_runs_checkpoints_and_exports_are_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    made = make_run(tmp_path / "run", {**SHAPE, **changes})
    export.export(tmp_path / "run", tmp_path / "export")
    config = made.config
    expected = made(TOKENS % 258)
    checkpoints = tmp_path / "run" / "checkpoints"
    lone = shutil.copytree(checkpoints / "0000000002", tmp_path / "a" / "b" / "alone")
    shutil.copy(tmp_path / "run" / "run.yaml", lone)
    for path in (tmp_path / "run", checkpoints, checkpoints / "0000000002", lone):
        assert_loads(path, config, expected)
    assert_loads(tmp_path / "export", config, expected)
    one = find(checkpoints / "0000000001")
    assert one.path.name == "0000000001"


def assert_loads(path: Path, config: ModelConfig, expected: Tensor) -> None:
    weights = find(path)
    weights.check(config, 258)
    model = Transformer(config, 258, 32)
    model.init_weights(5)
    weights.load(model)
    torch.testing.assert_close(model(TOKENS % 258), expected, atol=1e-5, rtol=0)


def test_an_architecture_without_an_export_starts_from_its_run(tmp_path: Path) -> None:
    """Of our own keys each is compared."""
    changes = {"norm_type": "layernorm", "activation": "relu2", "pos_embed": "none"}
    made = make_run(tmp_path / "run", {**SHAPE, **changes})
    assert_loads(tmp_path / "run", made.config, made(TOKENS % 258).detach())
    for key, found in changes.items():
        usual = ModelConfig.model_fields[key].default
        other = made.config.model_copy(update={key: usual})
        with pytest.raises(ConfigError) as caught:
            find(tmp_path / "run").check(other, 258)
        told = f"model.{key}: found '{found}'; expected '{usual}', the run's model.{key}"
        assert told in str(caught.value)


def test_checkpoints_of_another_run_in_the_folder_are_passed_over(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(make_summary(trajectory="trajectory").to_json())
    assert find(tmp_path / "run").path.name == "0000000002"
    (tmp_path / "run" / "run.json").write_text(make_summary(trajectory="another").to_json())
    with pytest.raises(ConfigError, match="found no checkpoint"):
        find(tmp_path / "run")
    with pytest.raises(ConfigError, match="continue_from: found no intact checkpoint"):
        find_source(tmp_path / "run", ALONE)


def test_a_checkpoint_with_other_bytes_is_refused(tmp_path: Path) -> None:
    """torch would read other weights."""
    made = make_run(tmp_path / "run")
    saved = tmp_path / "run" / "checkpoints" / "0000000002"
    data = next(saved.glob("*.distcp"))
    weight = made.norm.weight.detach().numpy().tobytes()
    assert weight in data.read_bytes()
    data.write_bytes(data.read_bytes().replace(weight, bytes(len(weight))))
    with pytest.raises(CheckpointError, match=f"{data.name} was changed since it was saved"):
        load_weights(saved)
    for path in (tmp_path / "run", saved):
        with pytest.raises(ConfigError, match=r"init_ckpt_path: .* was changed since it was saved"):
            find(path).check(made.config, 258)
    (saved / "state.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"init_ckpt_path: .*cannot be read: state\.json was"):
        find(saved).check(made.config, 258)
