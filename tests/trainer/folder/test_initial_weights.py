"""Weights from elsewhere. The truth: transformers' Llama, and lingua's with complex numbers."""

import contextlib
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.trainer.small_runs import make_run, make_summary
from trainer.commands import export
from trainer.config import ModelConfig, RunConfig
from trainer.folder import initial_weights
from trainer.folder.initial_weights import find
from trainer.folder.run_folder import Decision
from trainer.folder.source import find_source
from trainer.loop.session import open_session
from trainer.model.model import Transformer
from trainer.problems import ConfigError
from trainer.startup import Startup
from trainer.tokens.texts import Texts
from trainer.world import World

V = 304
SHAPE: dict[str, Any] = {"dim": 64, "n_layers": 2, "n_heads": 4, "multiple_of": 64}
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
TOKENS = torch.randint(V, (3, 32), generator=torch.Generator().manual_seed(0))
ALONE = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))

SHAPES = pytest.mark.parametrize(
    "changes",
    [
        {"n_kv_heads": 2, "rope_theta": 500000.0, "norm_eps": 1e-3},
        {"n_kv_heads": 1, "weight_tying": True},
        {"head_dim": 32, "n_heads": 4},
    ],
    ids=["gqa", "mqa tied", "wide heads"],
)


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


@torch.no_grad()
def assert_same_logits(model: Transformer, expected: Tensor) -> None:
    assert expected.std() > 0.5
    torch.testing.assert_close(model(TOKENS), expected, atol=1e-5, rtol=0)


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


@pytest.fixture(scope="module")
def gqa() -> dict[str, Any]:
    return {"n_kv_heads": 2}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory, gqa: dict[str, Any]) -> Path:
    """One model of each kind, with the same weights: hf, hf-shards, lingua."""
    folder = tmp_path_factory.mktemp("originals")
    llama = make_llama(gqa)
    llama.save_pretrained(folder / "hf")
    llama.save_pretrained(folder / "hf-shards", max_shard_size="100KB")
    write_lingua(folder / "lingua", llama, gqa)
    return folder


@pytest.fixture
def kinds(tmp_path: Path, originals: Path) -> Path:
    """A copy, to be damaged."""
    shutil.copytree(originals, tmp_path / "kinds")
    return tmp_path / "kinds"


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
def test_bfloat16_is_read_and_older_configs_too(kinds: Path, gqa: dict[str, Any]) -> None:
    """transformers 4 wrote rope_theta at the top, and left out what has its default."""
    file, config = kinds / "hf" / "model.safetensors", kinds / "hf" / "config.json"
    save_file({name: w.bfloat16() for name, w in load_file(file).items()}, file)
    values = json.loads(config.read_text())
    theta = values.pop("rope_parameters")["rope_theta"]
    for key in ("head_dim", "attention_bias", "mlp_bias", "tie_word_embeddings", "hidden_act"):
        del values[key]
    config.write_text(json.dumps(values | {"rope_theta": theta, "rope_scaling": None}))
    llama = make_llama(gqa)
    for parameter in llama.parameters():
        parameter.copy_(parameter.bfloat16())
    assert_same_logits(loaded(kinds / "hf", gqa), llama(TOKENS).logits)


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
def test_scaled_positions_and_a_qwen3(tmp_path: Path, changes: dict[str, Any]) -> None:
    """As transformers 5 and 4 write them; a run with other keys is refused."""
    theirs = make_llama(changes)
    expected = theirs(TOKENS).logits
    theirs.save_pretrained(tmp_path)
    assert_same_logits(loaded(tmp_path, changes), expected)
    config = tmp_path / "config.json"
    values = json.loads(config.read_text())
    rope = values.pop("rope_parameters")
    old = {"rope_theta": rope.pop("rope_theta"), "rope_scaling": changes.get("rope_scaling")}
    config.write_text(json.dumps({**values, **old}))
    assert_same_logits(loaded(tmp_path, changes, fused=False), expected)
    for key in ("qk_norm", "rope_scaling"):
        if key in changes:
            found = "'qwen3', which has qk_norm = True" if key == "qk_norm" else changes[key]
            usual = False if key == "qk_norm" else None
            told = f": found {found}; expected {usual}, the run's model.{key}"
            with pytest.raises(ConfigError) as caught:
                loaded(tmp_path, {**changes, key: usual})
            assert told in str(caught.value).splitlines()[1]


def test_a_path_that_cannot_be_one_is_no_source(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 300)
    with pytest.raises(ConfigError, match=r"continue_from: (cannot be read: File|found no)"):
        find_source(path, ALONE)


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


@pytest.mark.parametrize("folder", ["hf", "lingua", "lingua/consolidated"])
def test_another_vocabulary_is_refused_with_the_remedy(originals: Path, folder: str) -> None:
    model = ModelConfig.model_validate({**SHAPE, "n_kv_heads": 2})
    with pytest.raises(
        ConfigError, match=r"vocab_size: found 304; expected 258, .*n_words: 304 pads"
    ):
        find(originals / folder).check(model, 258)


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
DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "mistral": (
        "hf",
        lambda path: change_json(path / "config.json", model_type="mistral"),
        "model_type: found 'mistral'; expected 'llama'",
    ),
    "scaled positions": (
        "hf",
        lambda path: change_json(
            path / "config.json", rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}
        ),
        "rope_parameters.rope_type: found 'yarn'; expected 'default', 'llama3', 'linear'",
    ),
    "a scaling without its numbers": (
        "hf",
        lambda path: change_json(
            path / "config.json", rope_parameters={"rope_type": "llama3", "factor": 8.0}
        ),
        "rope_parameters.rope_type = llama3 also needs low_freq_factor, high_freq_factor, original",
    ),
    "scaled positions of transformers 4": (
        "hf",
        lambda path: change_json(
            path / "config.json", rope_parameters=None, rope_scaling={"type": "dynamic"}
        ),
        "rope_scaling.rope_type: found 'dynamic'",
    ),
    "quantised": (
        "hf",
        lambda path: change_json(path / "config.json", quantization_config={"bits": 4}),
        r"quantization_config: found \{'bits': 4\}; expected None",
    ),
    "no width": (
        "hf",
        lambda path: change_json(path / "config.json", hidden_size=None),
        "hidden_size: found None; expected a positive integer",
    ),
    "no JSON": (
        "hf",
        lambda path: (path / "config.json").write_text("{"),
        r"config\.json: .*\n  cannot be read as JSON",
    ),
    "a list": (
        "hf",
        lambda path: (path / "config.json").write_text("[]"),
        "found a list; expected a mapping",
    ),
    "a bias": (
        "hf",
        lambda path: set_tensor(path, "model.layers.0.self_attn.q_proj.bias", torch.zeros(64)),
        r"found model\.layers\.0\.self_attn\.q_proj\.bias; expected no such weight",
    ),
    "another shape": (
        "hf",
        lambda path: set_tensor(path, "model.norm.weight", torch.zeros(65)),
        r"model\.norm\.weight: found \(65,\); expected \(64,\)",
    ),
    "integers": (
        "hf",
        lambda path: set_tensor(path, "model.norm.weight", torch.zeros(64, dtype=torch.int8)),
        r"model\.norm\.weight: found I8 numbers; expected F16, BF16, F32, F64",
    ),
    "cut": (
        "hf",
        lambda path: os.truncate(path / "model.safetensors", 10_000),
        r"model\.safetensors: cannot be read",
    ),
    "other files": (
        "hf",
        lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"),
        r"found neither model\.safetensors nor model\.safetensors\.index\.json",
    ),
    "a missing shard": (
        "hf-shards",
        lambda path: next(path.glob("model-00002-*")).unlink(),
        "model-00002-of-.*: cannot be read",
    ),
    "a wrong index": (
        "hf-shards",
        lambda path: other_shard_map(path, next(path.glob("model-00002-*")).name),
        r"model-00002-.*: found no model\.norm\.weight, which model\.safetensors\.index\.json",
    ),
    "an index of elsewhere": (
        "hf-shards",
        lambda path: other_shard_map(path, "../hf/model.safetensors"),
        "is not the name of a file in the folder",
    ),
    "an index that is none": (
        "hf-shards",
        lambda path: (path / "model.safetensors.index.json").write_text('{"weight_map": 3}'),
        r"index\.json: cannot be read",
    ),
    "no params.json": (
        "lingua",
        lambda path: (path / "params.json").unlink(),
        r"found no checkpoint; expected .*params\.json",
    ),
    "no consolidated params.json": (
        "lingua/consolidated",
        lambda path: (path / "params.json").unlink(),
        r"params\.json: .*\n  cannot be read: No such file",
    ),
    "params of no model": (
        "lingua",
        lambda path: change_json(
            path / "params.json", model={**SHAPE, "dim": "wide", "head_dim": 8}
        ),
        r"params\.json: 1 problem\n  model\.dim: found 'wide'",
    ),
    "params without a model": (
        "lingua",
        lambda path: change_json(path / "params.json", model=3),
        "model: found 3; expected a mapping",
    ),
    "no index": (
        "lingua",
        lambda path: (path / ".metadata").write_bytes(b"\x80\x04garbage"),
        "cannot be read",
    ),
    "a cut consolidated.pth": (
        "lingua/consolidated",
        lambda path: os.truncate(path / "consolidated.pth", 10_000),
        r"consolidated\.pth: cannot be read",
    ),
    "another dictionary": (
        "lingua/consolidated",
        lambda path: torch.save({"weights": {}}, path / "consolidated.pth"),
        "found no tensors under the key 'model'",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_cannot_be_used_is_named(kinds: Path, gqa: dict[str, Any], name: str) -> None:
    folder, damage, expected = DAMAGE[name]
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


class Attack:
    """What makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


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


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_missing_initial_weights_are_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"checkpoint\.init_ckpt_path: found no checkpoint"):
        find(tmp_path / name)


def run_config(folder: Path, init: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "dump_dir": str(folder),
            "steps": 1,
            "model": {"dim": 32, "n_layers": 2, "n_heads": 4, "multiple_of": 16},
            "data": {"root_dir": "data", "sources": {"text": 1.0}, "seq_len": 48},
            "checkpoint": {"init_ckpt_path": str(init)},
        }
    )


def test_a_run_does_not_start_from_its_own_folder(tmp_path: Path) -> None:
    """A new run moves its files aside; what it moved aside earlier stays where it is."""
    make_run(tmp_path / "run")
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "0000000001"):
        with pytest.raises(ConfigError, match="own folder"):
            initial_weights.choose(run_config(tmp_path / "run", path), ALONE)
    old = tmp_path / "run" / "superseded" / "1"
    old.mkdir(parents=True)
    (tmp_path / "run" / "checkpoints").rename(old / "checkpoints")
    shutil.move(tmp_path / "run" / "run.yaml", old)
    chosen = initial_weights.choose(run_config(tmp_path / "run", old), ALONE)
    assert chosen is not None
    assert chosen.path == old / "checkpoints" / "0000000002"


def test_a_path_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.init_ckpt_path: cannot be read: File name"):
        initial_weights.choose(run_config(tmp_path / "run", tmp_path / ("x" * 300)), ALONE)


def test_a_refused_run_leaves_an_earlier_one_where_it_is(tmp_path: Path, originals: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("those of an earlier run\n")
    config, unused = run_config(tmp_path, originals / "lingua"), cast(Any, None)
    text = Mock(key="text", training_key="text", tokenizer="bytes")
    texts = Texts({"text": text}, {})
    with pytest.raises(ConfigError, match=r"params\.json: [0-9] problems\n  model\.dim: found 64"):
        open_session(config, unused, Startup(), ALONE, texts, Decision("start"))
    assert (tmp_path / "metrics.jsonl").read_text() == "those of an earlier run\n"
    assert not (tmp_path / "superseded").exists()
