"""The text of a run: what it trains on, and what it is evaluated on."""

from pathlib import Path

import pytest

from tests.trainer.small_runs import run_config
from tests.trainer.tokens.sources import write_source
from trainer.config import DataConfig, RunConfig
from trainer.layers import merge
from trainer.problems import ConfigError
from trainer.settings import validate
from trainer.tokens import packing
from trainer.tokens.texts import open_held_out, open_shards, open_texts


def test_each_source_needs_at_least_one_sequence(tmp_path: Path) -> None:
    write_source(tmp_path, [["12345678"]], source="a")
    write_source(tmp_path, [["12"]], source="b")

    def opened(seq_len: int) -> list[str]:
        data = DataConfig(
            root_dir=str(tmp_path),
            sources={"b": 1.0, "a": 1.0},
            shards_dir=str(tmp_path / "shards"),
            seq_len=seq_len,
        )
        return list(open_shards(data))

    assert opened(3) == ["a", "b"]
    with pytest.raises(ConfigError, match=r"b: 1 problem\n  found 4 tokens .*seq_len \+ 1 = 5"):
        opened(4)


def test_a_source_of_weight_0_is_switched_off(tmp_path: Path) -> None:
    """Its text need not exist, and nothing tells the run from one without it."""
    write_source(tmp_path, [["12345678"]], source="a")
    values = {"root_dir": str(tmp_path), "shards_dir": str(tmp_path / "shards"), "seq_len": 3}
    off = DataConfig(sources={"missing": 0, "a": 2.5, "other": 0.0}, **values)
    assert off == DataConfig(sources={"a": 2.5}, **values)
    assert list(open_shards(off)) == ["a"]
    with pytest.raises(ConfigError, match=r"sources: found only weights of 0; expected one"):
        validate(DataConfig, {"sources": {"a": 0, "b": 0.0}, **values}, "data.sources")
    with pytest.raises(ConfigError, match=r"sources.a: found -1; expected a number of 0 or more"):
        validate(DataConfig, {"sources": {"a": -1}, **values}, "run.yaml")


def test_held_out_text_of_other_sources_than_those_to_train_on(tmp_path: Path) -> None:
    """Source b is switched off for training, and read for evaluation."""
    for source in ("a", "b", "c"):
        write_source(tmp_path, [["12345678"]], ["abcdef"], source=source)
    values = {
        "dump_dir": "out",
        "steps": 1,
        "model": {"dim": 32, "n_layers": 1, "n_heads": 1},
        "data": {"root_dir": str(tmp_path), "shards_dir": str(tmp_path / "shards"), "seq_len": 3,
                 "sources": {"a": 1, "b": 0, "c": 1}},
        "eval": {"validation": {"sources": ["b", "a"]}},
    }  # fmt: skip
    config = validate(RunConfig, values, "run.yaml")
    shards = open_shards(config.data)
    held_out = open_held_out(config, shards)
    assert (list(shards), list(held_out), config.sources) == (
        ["a", "c"],
        ["a", "b"],
        ["a", "c", "b"],
    )
    assert held_out["a"] is shards["a"]
    usual = validate(
        RunConfig, merge(values, {"eval": {"validation": {"sources": []}}}), "run.yaml"
    )
    assert usual.held_out_sources == ["a", "c"]
    assert open_held_out(usual, shards) == shards
    without = validate(RunConfig, {**values, "eval": None}, "run.yaml")
    assert open_held_out(without, shards) == {}


def test_sources_share_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a large vocabulary takes a second to load."""
    for source in ("a", "b", "c"):
        write_source(tmp_path, [["12345678"]], ["abcdef"], source=source)
    loaded: list[object] = []
    build = packing.build_tokenizer
    monkeypatch.setattr(packing, "build_tokenizer", lambda c: loaded.append(c) or build(c))
    data = {"root_dir": str(tmp_path), "shards_dir": str(tmp_path / "shards"), "seq_len": 3}
    config = run_config(
        tmp_path,
        data={**data, "sources": {"a": 1, "text": 0}},
        eval={"validation": {"sources": ["b", "c"]}},
    )
    shards = open_shards(config.data)
    assert len(loaded) == 1
    assert list(open_held_out(config, shards)) == ["b", "c"]
    assert len(loaded) == 2


def test_validation_needs_a_sequence_of_held_out_text(tmp_path: Path) -> None:
    write_source(tmp_path, [["12345678"]], ["12"], source="a")
    write_source(tmp_path, [["12345678"]], source="b")
    folders = {"root_dir": str(tmp_path), "shards_dir": str(tmp_path / "shards")}

    def config(sources: dict[str, float], seq_len: int) -> RunConfig:
        values = {"dump_dir": "out", "steps": 1, "model": {"dim": 32, "n_layers": 1, "n_heads": 1}}
        data = {**folders, "sources": sources, "seq_len": seq_len}
        return RunConfig.model_validate({**values, "data": data, "eval": {}})

    texts = open_texts(config({"a": 1, "b": 1}, 3))  # one of the two is enough
    assert list(texts.held_out) == ["a", "b"]
    for sources, found in (({"b": 1.0}, 0), ({"a": 1.0, "b": 1.0}, 4)):
        with pytest.raises(ConfigError) as caught:
            open_texts(config(sources, 4))
        assert f"eval: found {found} held-out tokens; expected at least" in str(caught.value)
        assert "= 5 in one source: a file named like *.val.jsonl, or eval" in str(caught.value)
