"""Weights that a run cannot use: what is refused, and in which words."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.trainer.folder.attack import Attack
from tests.trainer.folder.other_models import (
    LLAMA3,
    SHAPE,
    V,
    lingua_weights,
    loaded,
    make_llama,
    save_alone,
    write_as_transformers_4,
)
from tests.trainer.model.scalings import LINEAR
from tests.trainer.small_runs import make_run
from trainer.config import ModelConfig
from trainer.folder.initial_weights import find
from trainer.problems import ConfigError


@pytest.mark.parametrize(
    ("run", "key", "theirs", "lingua"),
    [
        ({"dim": 128, "head_dim": 16}, "dim", "hidden_size: found 64; expected 128", "found 64"),
        ({"n_layers": 3}, "n_layers", "num_hidden_layers: found 2; expected 3", "found 2"),
        ({"n_heads": 8}, "n_heads", "num_attention_heads: found 4; expected 8", "found 4"),
        ({"n_kv_heads": 4}, "n_kv_heads", "num_key_value_heads: found 2; expected 4", "found 2"),
        ({"head_dim": 32, "n_heads": 4}, "head_dim", "head_dim: found 16; expected 32", "found 16"),
        (
            {"rope_theta": 5e5},
            "rope_theta",
            "rope_parameters.rope_theta: found 10000.0; expected 500000.0",
            "found 10000.0",
        ),
        ({"norm_eps": 1e-6}, "norm_eps", "rms_norm_eps: found 1e-05; expected 1e-06", "1e-05"),
        (
            {"weight_tying": True},
            "weight_tying",
            "tie_word_embeddings: found False; expected True",
            "found False",
        ),
        (
            {"multiple_of": 128},
            "ffn_dim_multiplier, multiple_of",
            "intermediate_size: found 192; expected 256, the FFN's hidden width by the run's",
            "found 192",
        ),
    ],
)
def test_another_model_is_refused(
    originals: Path, run: dict[str, Any], key: str, theirs: str, lingua: str
) -> None:
    """File, key, found and expected; also where all tensors have the right shapes."""
    model = ModelConfig.model_validate({**SHAPE, "n_kv_heads": 2, **run})
    with pytest.raises(ConfigError) as caught:
        find(originals / "hf").check(model, V)
    assert str(originals / "hf" / "config.json") in str(caught.value)
    assert theirs in str(caught.value)
    for folder in ("lingua", "lingua/consolidated"):
        with pytest.raises(ConfigError) as caught:
            find(originals / folder).check(model, V)
        assert str(originals / folder / "params.json") in str(caught.value)
        assert f"model.{key}: " in str(caught.value)
        assert lingua in str(caught.value)


def test_one_difference_is_one_line(originals: Path, gqa: dict[str, Any]) -> None:
    model = ModelConfig.model_validate({**SHAPE, **gqa, "rope_theta": 5e5})
    with pytest.raises(ConfigError) as caught:
        find(originals / "lingua").check(model, V)
    assert str(caught.value).splitlines() == [
        f"{originals / 'lingua' / 'params.json'}: 1 problem",
        "  model.rope_theta: found 10000.0; expected 500000.0, the run's model.rope_theta",
    ]


@pytest.mark.parametrize(
    ("theirs", "ours", "told"),
    [
        (
            {"rope_scaling": LINEAR, "rope_theta": 500.0},
            {"rope_theta": 500.0},
            f"found {LINEAR}; expected None, the run's model.rope_scaling",
        ),
        (
            {"rope_scaling": LLAMA3},
            {},
            f"found {LLAMA3}; expected None, the run's model.rope_scaling",
        ),
        (
            {"qk_norm": True, "n_kv_heads": 2, "head_dim": 32},
            {"n_kv_heads": 2, "head_dim": 32},
            "found 'qwen3', which has qk_norm = True; expected False, the run's model.qk_norm",
        ),
        (
            {"qk_norm": True, "rope_scaling": LLAMA3, "weight_tying": True},
            {"rope_scaling": LLAMA3, "weight_tying": True},
            "found 'qwen3', which has qk_norm = True; expected False, the run's model.qk_norm",
        ),
        (
            {"qk_norm": True, "rope_scaling": LLAMA3, "weight_tying": True},
            {"qk_norm": True, "weight_tying": True},
            f"found {LLAMA3}; expected None, the run's model.rope_scaling",
        ),
    ],
    ids=["linear", "llama3", "qwen3", "qwen3 by its norms", "qwen3 by its positions"],
)
def test_other_positions_and_norms_are_refused(
    tmp_path: Path, theirs: dict[str, Any], ours: dict[str, Any], told: str
) -> None:
    """As transformers 5 and 4 write them."""
    make_llama(theirs).save_pretrained(tmp_path)
    for version in (5, 4):
        if version == 4:
            write_as_transformers_4(tmp_path, theirs)
        with pytest.raises(ConfigError) as caught:
            loaded(tmp_path, ours)
        assert f": {told}" in str(caught.value).splitlines()[1]


@pytest.mark.parametrize("folder", ["hf", "lingua", "lingua/consolidated"])
def test_another_vocabulary_is_refused_with_the_remedy(originals: Path, folder: str) -> None:
    model = ModelConfig.model_validate({**SHAPE, "n_kv_heads": 2})
    with pytest.raises(
        ConfigError, match=r"vocab_size: found 304; expected 258, .*n_words: 304 pads"
    ):
        find(originals / folder).check(model, 258)
    for other in (300, 320):  # padding makes a vocabulary larger
        with pytest.raises(ConfigError) as caught:
            find(originals / folder).check(model, other)
        assert f"vocab_size: found 304; expected {other}, " in str(caught.value)
        assert ("pads" in str(caught.value)) == (other == 300)


@pytest.mark.parametrize("given", [-1, None, "many"])
def test_a_vocabulary_that_lingua_does_not_state_is_any(
    originals: Path, tmp_path: Path, given: object
) -> None:
    """-1 is that of its tokenizer."""
    shutil.copytree(originals / "lingua", tmp_path / "lingua")
    params = tmp_path / "lingua" / "params.json"
    values = json.loads(params.read_text())
    params.write_text(json.dumps({"model": {**values["model"], "vocab_size": given}}))
    model = ModelConfig.model_validate({**SHAPE, "n_kv_heads": 2})
    find(tmp_path / "lingua").check(model, V)
    with pytest.raises(ConfigError, match=r"model\.rope_theta: found 10000\.0; expected 500\.0"):
        find(tmp_path / "lingua").check(model.model_copy(update={"rope_theta": 500.0}), V)


def test_another_model_of_ours_is_refused(tmp_path: Path) -> None:
    """Twice the heads of half the width: the tensors have the same shapes."""
    made = make_run(tmp_path / "run", {"n_heads": 4})
    other = made.config.model_copy(update={"n_heads": 8, "head_dim": 4})
    with pytest.raises(ConfigError) as caught:
        find(tmp_path / "run").check(other, 258)
    assert f"{tmp_path / 'run' / 'run.yaml'}: " in str(caught.value)
    assert "model.n_heads: found 4; expected 8, the run's model.n_heads" in str(caught.value)
    with pytest.raises(ConfigError, match=r"tok_embeddings.weight: found \(258, 32\); expected"):
        find(tmp_path / "run").check(made.config, 264)


def test_a_checkpoint_without_settings_is_checked_by_its_shapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_run(tmp_path / "run")
    (tmp_path / "run" / "run.yaml").unlink()
    weights = find(tmp_path / "run")
    weights.check(made.config, 258)
    assert "only shapes are checked" in capsys.readouterr().out
    deeper = made.config.model_copy(update={"n_layers": 3})
    with pytest.raises(ConfigError, match=r"found no layers\.2\..* \(and 8 more\)"):
        weights.check(deeper, 258)


def change_json(file: Path, **changes: Any) -> None:
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, **changes}))


def set_tensor(folder: Path, name: str, tensor: Tensor) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, name: tensor}, folder / "model.safetensors")


def other_shard_map(folder: Path, file: str) -> None:
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["model.norm.weight"] = file
    index.write_text(json.dumps(values))


WIDE = {**SHAPE, "dim": "wide", "head_dim": 8}

DAMAGE = [
    pytest.param(
        "hf",
        lambda path: change_json(path / "config.json", model_type="mistral"),
        "model_type: found 'mistral'; expected 'llama'",
        id="mistral",
    ),
    pytest.param(
        "hf",
        lambda path: change_json(
            path / "config.json", rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}
        ),
        "rope_parameters.rope_type: found 'yarn'; expected 'default', 'llama3', 'linear'",
        id="scaled positions",
    ),
    pytest.param(
        "hf",
        lambda path: change_json(
            path / "config.json", rope_parameters={"rope_type": "llama3", "factor": 8.0}
        ),
        "rope_parameters.rope_type = llama3 also needs low_freq_factor, high_freq_factor, original",
        id="a scaling without its numbers",
    ),
    pytest.param(
        "hf",
        lambda path: change_json(
            path / "config.json", rope_parameters=None, rope_scaling={"type": "dynamic"}
        ),
        "rope_scaling.rope_type: found 'dynamic'",
        id="scaled positions of transformers 4",
    ),
    pytest.param(
        "hf",
        lambda path: change_json(path / "config.json", quantization_config={"bits": 4}),
        r"quantization_config: found \{'bits': 4\}; expected None",
        id="quantised",
    ),
    pytest.param(
        "hf",
        lambda path: change_json(path / "config.json", hidden_size=None),
        "hidden_size: found None; expected a positive integer",
        id="no width",
    ),
    pytest.param(
        "hf",
        lambda path: change_json(path / "config.json", model_type=["llama"]),
        r"model_type: found \['llama'\]; expected 'llama' or 'qwen3'",
        id="a list of kinds",
    ),
    pytest.param(
        "hf",
        lambda path: change_json(path / "config.json", num_attention_heads=True, vocab_size=0),
        r"2 problems\n  num_attention_heads: found True; expected .*\n  vocab_size: found 0; exp",
        id="sizes that are none",
    ),
    pytest.param(
        "hf",
        lambda path: change_json(path / "config.json", rope_parameters=7),
        "rope_parameters.rope_type: found 7; expected 'default', 'llama3', 'linear'",
        id="positions that are a number",
    ),
    pytest.param(
        "hf",
        lambda path: change_json(
            path / "config.json",
            rope_parameters={"rope_type": "yarn"},
            rope_scaling={"type": "dynamic"},
        ),
        "rope_parameters.rope_type: found 'yarn'",
        id="scaled positions of two versions",
    ),
    pytest.param(
        "hf",
        lambda path: (path / "config.json").write_text("{"),
        r"config\.json: .*\n  cannot be read as JSON",
        id="no JSON",
    ),
    pytest.param(
        "hf",
        lambda path: (path / "config.json").write_text("[]"),
        "found a list; expected a mapping",
        id="a list",
    ),
    pytest.param(
        "hf",
        lambda path: set_tensor(path, "model.layers.0.self_attn.q_proj.bias", torch.zeros(64)),
        r"found model\.layers\.0\.self_attn\.q_proj\.bias; expected no such weight",
        id="a bias",
    ),
    pytest.param(
        "hf",
        lambda path: set_tensor(path, "model.norm.weight", torch.zeros(65)),
        r"model\.norm\.weight: found \(65,\); expected \(64,\)",
        id="another shape",
    ),
    pytest.param(
        "hf",
        lambda path: set_tensor(path, "model.norm.weight", torch.zeros(64, dtype=torch.int8)),
        r"model\.norm\.weight: found I8 numbers; expected F16, BF16, F32, F64",
        id="integers",
    ),
    pytest.param(
        "hf",
        lambda path: os.truncate(path / "model.safetensors", 10_000),
        r"model\.safetensors: cannot be read",
        id="cut",
    ),
    pytest.param(
        "hf",
        lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"),
        r"found neither model\.safetensors nor model\.safetensors\.index\.json",
        id="other files",
    ),
    pytest.param(
        "hf-shards",
        lambda path: next(path.glob("model-00002-*")).unlink(),
        "model-00002-of-.*: cannot be read",
        id="a missing shard",
    ),
    pytest.param(
        "hf-shards",
        lambda path: other_shard_map(path, next(path.glob("model-00002-*")).name),
        r"model-00002-.*: found no model\.norm\.weight, which model\.safetensors\.index\.json",
        id="a wrong index",
    ),
    pytest.param(
        "hf-shards",
        lambda path: other_shard_map(path, "../hf/model.safetensors"),
        "is not the name of a file in the folder",
        id="an index of elsewhere",
    ),
    pytest.param(
        "hf-shards",
        lambda path: (path / "model.safetensors.index.json").write_text('{"weight_map": 3}'),
        r"index\.json: cannot be read",
        id="an index that is none",
    ),
    pytest.param(
        "lingua",
        lambda path: (path / "params.json").unlink(),
        r"found no checkpoint; expected .*params\.json",
        id="no params.json",
    ),
    pytest.param(
        "lingua/consolidated",
        lambda path: (path / "params.json").unlink(),
        r"params\.json: .*\n  cannot be read: No such file",
        id="no consolidated params.json",
    ),
    pytest.param(
        "lingua",
        lambda path: change_json(path / "params.json", model=WIDE),
        r"params\.json: 1 problem\n  model\.dim: found 'wide'",
        id="params of no model",
    ),
    pytest.param(
        "lingua",
        lambda path: change_json(path / "params.json", model=3),
        "model: found 3; expected a mapping",
        id="params without a model",
    ),
    pytest.param(
        "lingua",
        lambda path: (path / ".metadata").write_bytes(b"\x80\x04garbage"),
        "cannot be read",
        id="no index",
    ),
    pytest.param(
        "lingua/consolidated",
        lambda path: os.truncate(path / "consolidated.pth", 10_000),
        r"consolidated\.pth: cannot be read",
        id="a cut consolidated.pth",
    ),
    pytest.param(
        "lingua/consolidated",
        lambda path: torch.save({"weights": {}}, path / "consolidated.pth"),
        "found no tensors under the key 'model'",
        id="another dictionary",
    ),
]


@pytest.mark.parametrize(("folder", "damage", "expected"), DAMAGE)
def test_what_cannot_be_used_is_named(
    kinds: Path, gqa: dict[str, Any], folder: str, damage: Callable[[Path], Any], expected: str
) -> None:
    damage(kinds / folder)
    with pytest.raises(ConfigError, match=expected) as caught:
        find(kinds / folder).check(ModelConfig.model_validate({**SHAPE, **gqa}), V)
    assert len(str(caught.value).splitlines()) <= 3
    assert len(str(caught.value)) < 700


def test_a_cut_shard_of_a_checkpoint_is_named_when_it_is_read(
    kinds: Path, gqa: dict[str, Any]
) -> None:
    """The index is intact. Without torch's tracebacks."""
    os.truncate(next((kinds / "lingua").glob("*.distcp")), 10_000)
    with pytest.raises(ConfigError, match=r"checkpoint\.init_ckpt_path: .*cannot be read") as error:
        loaded(kinds / "lingua", gqa)
    assert "Traceback" not in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize("where", ["index", "object", "consolidated"])
def test_code_in_foreign_files_is_not_executed(
    kinds: Path, gqa: dict[str, Any], where: str
) -> None:
    attack, folder = Attack(kinds / "executed"), kinds / "lingua"
    if where == "index":
        (folder / ".metadata").write_bytes(pickle.dumps(attack))
    elif where == "object":
        weights = {**lingua_weights(make_llama(gqa)), "norm.weight": attack}
        params = (folder / "params.json").read_text()
        shutil.rmtree(folder)
        save_alone({"model": weights}, folder)
        (folder / "params.json").write_text(params)
    else:
        folder = folder / "consolidated"
        torch.save({"model": {"norm.weight": attack}}, folder / "consolidated.pth")
    with pytest.raises(ConfigError, match=r"mkdir|is not a tensor|tensors alone"):
        loaded(folder, gqa)
    assert not (kinds / "executed").exists()
