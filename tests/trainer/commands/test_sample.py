"""The truth is transformers: its greedy generation on the exported model."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from tests.trainer.small_runs import make_run
from tests.trainer.tokens.tokenizer_files import MAKE, NAMES
from trainer.commands import export, sample
from trainer.commands.sample import Sampling
from trainer.config import ModelConfig
from trainer.model.generation import Decoder, generate, make_choice
from trainer.model.model import Transformer
from trainer.tokens.tokenizer import ByteTokenizer

PROMPTS = ["The sum of äöü\n", ""]


@pytest.mark.parametrize(
    "shape",
    [{"n_kv_heads": 2, "rope_theta": 500.0}, {"n_kv_heads": 1, "weight_tying": True}],
    ids=["gqa", "mqa tied"],
)
def test_greedy_text_is_transformers(tmp_path: Path, shape: dict[str, Any]) -> None:
    """Also beyond the length of the training sequences."""
    make_run(tmp_path / "run", shape, seq_len=8)
    export.export(tmp_path / "run", tmp_path / "export")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "export")
    tokenizer = ByteTokenizer()
    lengths = []
    for prompt in PROMPTS:
        tokens = torch.tensor([[tokenizer.bos, *tokenizer.encode(prompt).tolist()]])
        made = theirs.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=[256, 257],
            pad_token_id=257,
        )
        expected = tokenizer.decode(made[0].numpy())
        assert sample.sample(tmp_path / "run", prompt, Sampling(max_tokens=24)) == expected
        lengths.append(made.shape[1])
    assert max(lengths) > 12


def draw_model(**changes: Any) -> Transformer:
    config = ModelConfig.model_validate({"dim": 32, "n_layers": 2, "n_heads": 4, **changes})
    model = Transformer(config, 264, 40, fused=False).eval()
    model.init_weights(3)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sliding_window": 3, "n_kv_heads": 2},
        {"qk_norm": True, "n_kv_heads": 2, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"pos_embed": "none", "norm_type": "layernorm", "activation": "relu2"},
    ],
)
def test_the_cache_changes_no_logits(changes: dict[str, Any]) -> None:
    """Token by token, and after a prompt: those of a forward pass over the whole sequence."""
    model = draw_model(**changes)
    tokens = torch.randint(264, (40,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(tokens[None])[0]
    for prompt in (1, 17):
        decoder = Decoder(model)
        found = [decoder.logits(tokens[:prompt])]
        found += [decoder.logits(token[None]) for token in tokens[prompt:]]
        torch.testing.assert_close(torch.stack(found), expected[prompt - 1 :], atol=1e-5, rtol=0)


def test_generation_stops_at_the_end_of_a_document() -> None:
    made = list(generate(draw_model(), [256, 65], 30, lambda logits: int(logits.argmax()), set()))
    assert len(made) == 30
    stop = made[11]
    choose = make_choice(264)
    stopped = list(generate(draw_model(), [256, 65], 30, choose, {stop}))
    assert stopped == made[: made.index(stop)]


def test_draws_follow_the_softmax() -> None:
    """2,000 draws of 4 tokens; a share's standard deviation is at most 0.011."""
    logits = torch.tensor([1.0, 2.0, 0.5, 1.5, 99.0, 99.0])  # the last two are padding
    for temperature, top_k in ((0.5, None), (2.0, 2), (1.0, 9)):
        choose = make_choice(4, temperature, top_k, seed=1)
        found = np.bincount([choose(logits) for _ in range(2000)], minlength=4) / 2000
        weights = np.exp(np.array([1.0, 2.0, 0.5, 1.5]) / temperature)
        if top_k == 2:
            weights[[0, 2]] = 0
        np.testing.assert_allclose(found, weights / weights.sum(), atol=0.055)
        assert (found[weights == 0] == 0).all()


@pytest.mark.parametrize("temperature", [0.0, 1e-308, 1e-3])
def test_a_cold_draw_is_the_likeliest_and_never_padding(temperature: float) -> None:
    choose = make_choice(4, temperature)
    assert {choose(torch.tensor([1.0, 2.0, 0.5, 1.5, 99.0])) for _ in range(20)} == {1}


def test_a_seed_gives_the_same_text(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    texts = [
        sample.sample(tmp_path / "run", "The", Sampling(20, 1.5, 50, seed)) for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    one = sample.sample(tmp_path / "run", "The", Sampling(20, 1.5, 1))
    assert one == sample.sample(tmp_path / "run", "The", Sampling(20))


@pytest.mark.parametrize("name", NAMES)
def test_every_tokenizer_continues_its_prompt(tmp_path: Path, name: str) -> None:
    """With ids of a padded vocabulary, which no tokenizer could decode."""
    MAKE[name](tmp_path / "file")
    tokenizer = {"name": name, "path": str(tmp_path / "file"), "n_words": 1024}
    make_run(tmp_path / "run", tokenizer=tokenizer)
    sampling = Sampling(40, temperature=5.0)
    text = sample.sample(tmp_path / "run", "The sum of  number", sampling)
    assert text.startswith("The sum of  number")
    assert len(text) > len("The sum of  number")


def test_an_earlier_step_can_be_sampled(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    first, newest = (
        sample.sample(tmp_path / "run", "The", Sampling(9), step) for step in (1, None)
    )
    assert first != newest
    assert newest == sample.sample(tmp_path / "run", "The", Sampling(9), 2)


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `python -m trainer.commands.sample`, in this process."""
    monkeypatch.setattr(sys, "argv", ["sample", *arguments])
    # runpy warns of a module that is already imported.
    monkeypatch.delitem(sys.modules, "trainer.commands.sample", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("trainer.commands.sample", run_name="__main__", alter_sys=True)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_command_prints_prompt_and_continuation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run")
    command = ["--run", str(tmp_path / "run"), "--prompt", "The sum"]
    assert run_command(monkeypatch, *command, "--max-tokens=20", "--device=cpu") == 0
    expected = sample.sample(tmp_path / "run", "The sum", Sampling(20))
    assert capsys.readouterr().out == expected + "\n"
    options = ("--temperature=0.5", "--top-k=50", f"--seed={2**64 - 1}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_command(monkeypatch, *command, *options) == 0
    expected = sample.sample(tmp_path / "run", "The sum", Sampling(128, 0.5, 50, 2**64 - 1))
    assert capsys.readouterr().out == expected + "\n"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({(0,): "a", (0, 1): "a b", (1,): "b"}, " b"),
        ({(0,): "\ufffd", (0, 1): "ä", (1,): "b"}, "b"),
    ],
    ids=["drops a space at the beginning", "decodes the prompt otherwise in a longer text"],
)
def test_the_text_after_a_prompt(texts: dict[tuple[int, ...], str], expected: str) -> None:
    tokenizer: Any = SimpleNamespace(decode=lambda ids: texts[tuple(ids.tolist())])
    assert sample._continuation(tokenizer, [0], [1]) == expected


def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "run"
    make_run(made, add_bos=False)
    (tmp_path / "untrained").mkdir()
    (tmp_path / "untrained" / "run.yaml").write_text((made / "run.yaml").read_text())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for run, prompt, option, expected in (
        ("nowhere", "a", "--max-tokens=1", "run.yaml: 1 problem"),
        ("untrained", "a", "--max-tokens=1", "steps: found none; expected a complete checkpoint"),
        ("run", "a", "--step=7", "steps: found 1, 2; expected a complete checkpoint of step 7"),
        ("run", "", "--max-tokens=1", "found no tokens; expected one or more"),
        ("run", "a", "--top-k=3", "--top-k: nothing is drawn; expected a --temperature"),
        ("run", "a", "--device=cuda", "torch finds no GPU here"),
    ):
        command = [f"--run={tmp_path / run}", f"--prompt={prompt}", option]
        assert run_command(monkeypatch, *command) == 1
        out, error = capsys.readouterr()
        assert out == ""
        assert expected in error
        assert len(error.splitlines()) == 2
    for option, expected in (
        ("--max-tokens=0", "found 0; expected 1 or more"),
        ("--temperature=-1", "found -1; expected 0 or more"),
        ("--temperature=inf", "found inf; expected 0 or more"),
        ("--temperature=nan", "found nan; expected 0 or more"),
        (f"--seed={2**64}", f"found {2**64}; expected a 64-bit number"),
        (f"--seed={-(2**63) - 1}", "expected a 64-bit number"),
        ("--top-k=x", "argument --top-k: invalid"),
    ):
        assert run_command(monkeypatch, f"--run={made}", "--prompt=a", option) == 2
        assert expected in capsys.readouterr().err


def test_settings_of_another_model_are_reported(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    settings = tmp_path / "run" / "run.yaml"
    settings.write_text(settings.read_text().replace("n_layers: 2", "n_layers: 1"))
    with pytest.raises(sample.ConfigError, match="expected no such weight"):
        sample.sample(tmp_path / "run", "The")


def test_a_padded_model_is_exported(tmp_path: Path) -> None:
    """transformers reads a vocabulary that is larger than the tokenizer's."""
    made = make_run(tmp_path / "run", tokenizer={"n_words": 304})
    export.export(tmp_path / "run", tmp_path / "export")
    assert json.loads((tmp_path / "export" / "config.json").read_text())["vocab_size"] == 304
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "export")
    tokens = torch.randint(258, (1, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, made(tokens), atol=1e-4, rtol=0)
