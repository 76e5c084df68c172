"""The truth is transformers: its Llama gives our logits, its tokenizer our ids."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from tests.trainer.conftest import Runs
from tests.trainer.small_runs import make_run, make_summary
from trainer.commands import export
from trainer.commands.export_tokenizer import byte_tokenizer_json, write_tokenizer
from trainer.config import DataConfig, OptimConfig, load_run_config
from trainer.folder.checkpoint_state import CheckpointError
from trainer.model.adamw import AdamW
from trainer.problems import ConfigError
from trainer.tokens.build_tokenizer import build_tokenizer
from trainer.tokens.texts import open_shards
from trainer.tokens.tokenizer import ByteTokenizer
from trainer.tokens.windows import validation_windows

ROOT = Path(__file__).parents[3]

TEXTS = [
    "Plain ASCII, with  two spaces\n\n\ttab and 'quotes'.",
    "Grüße aus Köln: äöüß ÄÖÜ",
    "👩‍🚀🎉 emoji\u200d 한국어 \x00\x7f\r\n",
    " leading and trailing ",
    "a text that spells <|bos|> and <|eos|>",
    "",
]


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

SHAPES = pytest.mark.parametrize(
    "shape",
    [
        {},
        {"n_kv_heads": 2},
        {"n_kv_heads": 1, "rope_theta": 500000.0, "norm_eps": 1e-3},
        {"weight_tying": True},
        {"head_dim": 16, "n_kv_heads": 2},
        {"rope_scaling": LLAMA3, "n_kv_heads": 2},
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"qk_norm": True, "norm_eps": 1e-3, "n_kv_heads": 2, "head_dim": 16},
        {"qk_norm": True, "rope_scaling": LLAMA3, "weight_tying": True},
    ],
    ids=[
        *("plain", "gqa", "mqa", "tied", "wide heads", "llama3", "linear"),
        *("qk_norm", "qk_norm llama3"),
    ],
)


@SHAPES
def test_a_step_matches_transformers_and_adamw(tmp_path: Path, shape: dict[str, Any]) -> None:
    """Loss, gradients and AdamW of an independent implementation: the same logits after a step."""
    ours = make_run(tmp_path / "run", shape)
    export.export(tmp_path / "run", tmp_path / "export")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    tokens = torch.randint(258, (3, 49), generator=torch.Generator().manual_seed(0))
    # A gradient that is noise would make a step of the full rate; epsilon is above such ones.
    config = OptimConfig(lr=1e-3, weight_decay=0.1, epsilon=1e-6)
    optimizer = AdamW(ours, config)
    loss = ours(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    optimizer.step(optimizer.grad_norm())
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for parameter in theirs.parameters():
        groups[parameter.ndim == 2].append(parameter)
    their_optimizer = torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": 0.1},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=1e-3,
        betas=(0.9, 0.95),
        eps=1e-6,
    )
    their_loss = theirs(tokens, labels=tokens).loss
    their_loss.backward()
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    their_optimizer.step()
    assert loss.item() == pytest.approx(their_loss.item(), abs=1e-5)
    with torch.no_grad():
        after = theirs(tokens[:, :-1]).logits
        torch.testing.assert_close(after, ours(tokens[:, :-1]), atol=1e-4, rtol=0)


@SHAPES
def test_transformers_gives_our_logits(tmp_path: Path, shape: dict[str, Any]) -> None:
    model = make_run(tmp_path / "run", shape)
    assert export.export(tmp_path / "run", tmp_path / "export") == 2
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert theirs.dtype == torch.float32
    assert theirs.config.model_type == ("qwen3" if "qk_norm" in shape else "llama")
    tokens = torch.randint(258, (3, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-4, rtol=0)


def test_transformers_gives_our_ids(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    export.export(tmp_path / "run", tmp_path / "export")
    ours, theirs = ByteTokenizer(), AutoTokenizer.from_pretrained(tmp_path / "export")
    for text in [*TEXTS, "".join(map(chr, range(0xD800))), (ROOT / "README.md").read_text()]:
        start, *ids = theirs(text)["input_ids"]
        assert start == 256  # as training puts BOS before a document
        assert ids == ours.encode(text).tolist()
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs.decode(ids) == text
        assert theirs.decode([256, *ids, 257], skip_special_tokens=True) == text
    assert (theirs.bos_token_id, theirs.eos_token_id) == (256, 257)
    assert len(theirs) == ours.vocab_size
    assert theirs.model_max_length == 48


def test_a_text_can_be_generated(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    export.export(tmp_path / "run", tmp_path / "export")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "export")
    assert (model.generation_config.bos_token_id, model.generation_config.eos_token_id) == (
        256,
        257,
    )
    prompt = torch.tensor([[256, 65, 66]])
    made = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, pad_token_id=257
    )
    assert 4 <= made.shape[1] <= 7


def test_the_command_exports_the_requested_step(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    command = [sys.executable, "-m", "trainer.commands.export", "--run", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for step, code in (("1", 0), ("3", 1)):
        output = tmp_path / f"export-{step}"
        done = subprocess.run(
            [*command, "--output", str(output), "--step", step],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert output.exists() == (code == 0)
    assert "steps: found 1, 2; expected a complete checkpoint of step 3" in done.stderr
    assert "Step 1 of 2" in (tmp_path / "export-1" / "README.md").read_text()


def test_an_incomplete_checkpoint_is_skipped(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    data = next((tmp_path / "run" / "checkpoints" / "0000000002").glob("*.distcp"))
    os.truncate(data, data.stat().st_size - 1)
    assert export.export(tmp_path / "run", tmp_path / "export") == 1


def test_the_run_of_run_json_is_exported(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    summary = make_summary(trajectory="another")
    (tmp_path / "run" / "run.json").write_text(summary.to_json())
    with pytest.raises(ConfigError, match="steps: found none; expected a complete checkpoint"):
        export.export(tmp_path / "run", tmp_path / "export")


def test_code_in_an_index_is_not_executed(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    make_run(tmp_path / "run")
    index = tmp_path / "run" / "checkpoints" / "0000000002" / ".metadata"
    index.write_bytes(pickle.dumps(Attack()).ljust(index.stat().st_size, b"."))
    with pytest.raises(CheckpointError, match=r"posix\.mkdir"):
        export.export(tmp_path / "run", tmp_path / "export")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "export").exists()


def test_settings_of_another_model_are_reported(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    settings = tmp_path / "run" / "run.yaml"
    settings.write_text(settings.read_text().replace("n_layers: 2", "n_layers: 1"))
    with pytest.raises(ConfigError) as caught:
        export.export(tmp_path / "run", tmp_path / "export")
    (problem,) = caught.value.problems
    saved = tmp_path / "run" / "checkpoints" / "0000000002"
    expected = f"model: in {saved}, found layers.1.attention_norm.weight (and 8 more)"
    assert str(problem) == f"{expected}; expected no such weight"


def test_settings_of_another_run_are_refused(tmp_path: Path) -> None:
    """Four heads or two: the weights have the same shapes, and another meaning."""
    make_run(tmp_path / "run")
    given = tmp_path / "given.yaml"
    text = (tmp_path / "run" / "run.yaml").read_text()
    changed = text.replace("n_heads: 4", "n_heads: 2").replace("head_dim: 8", "head_dim: 16")
    given.write_text(changed)
    with pytest.raises(ConfigError) as caught:
        export.export(tmp_path / "run", tmp_path / "export", config=given)
    assert str(caught.value).splitlines() == [
        f"{given}: 2 problems",
        f"  model.head_dim: found 16; expected 8, as in {tmp_path}/run/run.yaml",
        f"  model.n_heads: found 2; expected 4, as in {tmp_path}/run/run.yaml",
    ]
    assert not (tmp_path / "export").exists()
    given.write_text(text.replace("batch_size: 8", "batch_size: 2"))  # as on another GPU count
    export.export(tmp_path / "run", tmp_path / "export", config=given)


def test_a_run_yaml_that_was_changed_is_refused(runs: Runs) -> None:
    """The checkpoint has its own."""
    runs.here("steps=2")
    path = runs.out() / "run.yaml"
    path.write_text(path.read_text().replace("rope_theta: 10000.0", "rope_theta: 500000.0"))
    with pytest.raises(ConfigError, match=r"model\.rope_theta: found 500000\.0; expected 10000\.0"):
        export.export(runs.out(), runs.folder / "export")


def test_an_unsupported_sliding_window_is_rejected(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    settings = tmp_path / "run" / "run.yaml"
    settings.write_text(settings.read_text().replace("sliding_window: null", "sliding_window: 47"))
    with pytest.raises(ConfigError, match=r"run\.yaml: .*\n  model\.sliding_window: found 47"):
        export.export(tmp_path / "run", tmp_path / "export")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"norm_type": "layernorm"}, "model.norm_type: found layernorm, {}; expected rmsnorm"),
        ({"activation": "gelu"}, "model.activation: found gelu, {}; expected swiglu"),
        ({"activation": "relu2"}, "model.activation: found relu2, {}; expected swiglu"),
        ({"pos_embed": "none"}, "model.pos_embed: found none, {}; expected rope"),
    ],
    ids=str,
)
def test_a_model_that_transformers_lacks_is_refused_by_key(
    tmp_path: Path, changes: dict[str, str], told: str
) -> None:
    for name, qk_norm in (("Llama", False), ("Qwen3", True)):
        run = tmp_path / name
        make_run(run, {**changes, "qk_norm": qk_norm})
        with pytest.raises(ConfigError) as caught:
            export.export(run, tmp_path / "export")
        by = f"not supported by transformers' {name}ForCausalLM"
        assert str(caught.value).splitlines()[1:] == [f"  {told.format(by)}"]
        assert not (tmp_path / "export").exists()


def test_nothing_is_overwritten_and_nothing_half_done_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="mine: 1 problem\n  exists already"):
        export.export(tmp_path / "run", tmp_path / "mine")

    def fail(*arguments: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(export, "_card", fail)
    with pytest.raises(ConfigError, match="export: 1 problem\n  cannot be written: no space"):
        export.export(tmp_path / "run", tmp_path / "export")
    below = tmp_path / "mine" / "thesis.tex" / "export"
    with pytest.raises(ConfigError, match="export: 1 problem\n  cannot be written: Not a dir"):
        export.export(tmp_path / "run", below)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "run"]


def test_the_tokenizer_of_a_run_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another byte tokenizer, in a file of its own: its special tokens have other names and ids."""
    values = export_of_bytes(tmp_path)
    for token, text in zip(values["added_tokens"], ("<s>", "</s>"), strict=True):
        token["content"] = text
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(values))
    fake = SimpleNamespace(bos=256, eos=257, encode=lambda text: np.array([256]))
    monkeypatch.setattr(export, "build_tokenizer", lambda config: fake)
    make_run(tmp_path / "hf", tokenizer={"name": "hf", "path": str(file)})
    export.export(tmp_path / "hf", tmp_path / "exported")
    copied = json.loads((tmp_path / "exported" / "tokenizer.json").read_text())
    assert copied | {"post_processor": values["post_processor"]} == values
    theirs = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert (theirs.bos_token, theirs.eos_token) == ("<s>", "</s>")
    assert theirs("<s>ä")["input_ids"] == [256, 256, 0xC3, 0xA4]


ADDS_EOS = {
    "type": "TemplateProcessing",
    "single": [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"</s>": {"id": "</s>", "ids": [257], "tokens": ["</s>"]}},
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
BYTE_LEVEL["use_regex"] = False


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize(
    "given",
    [None, ADDS_EOS, BYTE_LEVEL, {"type": "Sequence", "processors": [BYTE_LEVEL, ADDS_EOS]}],
)
def test_an_exported_tokenizer_adds_bos_if_training_did(
    tmp_path: Path, given: dict[str, Any] | None, adds_bos: bool
) -> None:
    """Whatever the file adds: training ignores that. `add_bos_token` is lm_eval's."""
    values = byte_tokenizer_json(ByteTokenizer()) | {"post_processor": given}
    for token, text in zip(values["added_tokens"], ("<s>", "</s>"), strict=True):
        token["content"] = text
    (tmp_path / "mine.json").write_text(json.dumps(values))
    tokenizer = {"name": "hf", "path": str(tmp_path / "mine.json"), "n_words": 258}
    data = DataConfig.model_validate(
        {"root_dir": "d", "sources": {"s": 1}, "tokenizer": tokenizer, "add_bos": adds_bos}
    )
    write_tokenizer(tmp_path, data, build_tokenizer(data.tokenizer))
    expected = [*([256] if adds_bos else []), *b"ab"]
    for asked in ({}, {"add_bos_token": adds_bos}):
        theirs = AutoTokenizer.from_pretrained(tmp_path, **asked)
        assert theirs.encode("ab", add_special_tokens=True) == expected
        assert theirs.encode("ab", add_special_tokens=False) == [*b"ab"]


def export_of_bytes(folder: Path) -> dict[str, Any]:
    make_run(folder / "bytes")
    export.export(folder / "bytes", folder / "of-bytes")
    return json.loads((folder / "of-bytes" / "tokenizer.json").read_text())


@pytest.mark.parametrize(
    ("name", "copy"),
    [("tiktoken", "tokenizer.model"), ("sp", "tokenizer.model"), ("cl100k_base", "ranks")],
)
def test_an_unsupported_tokenizer_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, copy: str
) -> None:
    file = tmp_path / "ranks"
    file.write_bytes(b"\x00ranks")
    monkeypatch.setattr(export, "build_tokenizer", lambda config: SimpleNamespace(bos=1, eos=2))
    make_run(tmp_path / "run", tokenizer={"name": name, "path": str(file), "n_words": 300})
    export.export(tmp_path / "run", tmp_path / "export")
    assert (tmp_path / "export" / copy).read_bytes() == b"\x00ranks"
    assert f'name="{name}", path="{copy}"' in (tmp_path / "export/README.md").read_text()
    assert json.loads((tmp_path / "export/config.json").read_text())["bos_token_id"] == 1


def test_transformers_finds_the_validation_loss_of_a_run(runs: Runs) -> None:
    """From a checkpoint that two processes wrote."""
    runs.run("steps=4", processes=2)
    export.export(runs.out(), runs.folder / "export")
    model = LlamaForCausalLM.from_pretrained(runs.folder / "export")
    config = load_run_config([f"config={runs.config}"])
    windows = validation_windows(open_shards(config.data), config.data.seq_len, 8)
    tokens = torch.from_numpy(windows.astype(np.int64))
    with torch.no_grad():
        logits = model(tokens[:, :-1]).logits.flatten(0, 1)
    expected = json.loads((runs.out() / "run.json").read_text())["loss_validation"]
    found = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
    assert found.item() == pytest.approx(expected, abs=1e-4)
