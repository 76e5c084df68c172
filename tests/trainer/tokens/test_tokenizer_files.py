"""Tokenizers of a file against their own libraries, on tiny files made here."""

import base64
import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tiktoken
import tiktoken.load
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe
from tiktoken_ext import openai_public

from tests.trainer.tokens.sources import write_source
from tests.trainer.tokens.tokenizer_files import (
    CORPUS,
    MAKE,
    NAMES,
    make_hf,
    make_sp,
    make_tiktoken,
)
from trainer.config import TokenizerConfig
from trainer.problems import ConfigError
from trainer.settings import validate
from trainer.tokens import encodings
from trainer.tokens.build_tokenizer import build_tokenizer
from trainer.tokens.shards import ensure_shards, main
from trainer.tokens.tokenizer import Tokenizer
from trainer.vocabulary import ENCODING_SIZES, vocabulary_size

WORDS = st.lists(
    st.sampled_from(["The", " sum", " of", " number", "12345", "naïve", "\n", "日本", "<s>"])
)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiktoken's own loader caches by path, over the end of the tests."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, make in MAKE.items():
        make(folder / name)
    return {name: folder / name for name in MAKE}


def load(name: str, path: Path, **changes: Any) -> Tokenizer:
    return build_tokenizer(TokenizerConfig(name=name, path=str(path), **changes))  # type: ignore[arg-type]


def directly(name: str, path: Path, text: str) -> list[int]:
    """The ids, by the library and nothing of ours."""
    if name == "hf":
        library = tokenizers.Tokenizer.from_file(str(path))
        library.encode_special_tokens = True
        return list(library.encode(text, add_special_tokens=False).ids)
    if name == "sp":
        return list(sentencepiece.SentencePieceProcessor(str(path)).encode(text))
    ranks = load_tiktoken_bpe(str(path))
    llama = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""  # noqa: E501
    encoding = tiktoken.Encoding("x", pat_str=llama, mergeable_ranks=ranks, special_tokens={})
    return list(encoding.encode(text))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30)
@given(words=WORDS)
def test_ids_match_the_librarys(files: dict[str, Path], name: str, words: list[str]) -> None:
    tokenizer, text = load(name, files[name]), "".join(words)
    ids = tokenizer.encode(text)
    assert ids.tolist() == directly(name, files[name], text)
    assert tokenizer.bos not in ids.tolist()  # though the text spells <s>
    framed = np.array([tokenizer.bos, *ids.tolist(), tokenizer.eos], np.uint32)
    if name != "sp":  # which normalises white space
        assert tokenizer.decode(framed) == text
    assert tokenizer.decode(framed) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", NAMES)
def test_lone_surrogates_are_replaced(files: dict[str, Path], name: str) -> None:
    tokenizer = load(name, files[name])
    assert tokenizer.encode("a\ud800b").tolist() == tokenizer.encode("a?b").tolist()


def test_special_ids(files: dict[str, Path]) -> None:
    llama = load("tiktoken", files["tiktoken"])
    assert (llama.bos, llama.eos, llama.vocab_size) == (261, 262, 261 + 256)
    sp = load("sp", files["sp"])
    assert (sp.bos, sp.eos) == (1, 2)  # SentencePiece's own
    hf = load("hf", files["hf"])
    assert (hf.bos, hf.eos) == (0, 1)  # special tokens come first in its training


@pytest.mark.parametrize(
    ("special", "given_names", "expected"),
    [
        (("<|begin_of_text|>", "<|end_of_text|>", "<s>", "</s>"), {}, (0, 1)),
        (("<bos>", "<eos>"), {}, (0, 1)),
        (("<|endoftext|>",), {}, (0, 0)),
        (("<pad>", "</s>"), {}, (-1, 1)),
        (("<x>", "<y>"), {}, (-1, -1)),
        (("<x>", "<s>", "</s>"), {"eos": "<x>"}, (1, 0)),
        (("<x>", "<y>"), {"bos": "<y>", "eos": "<x>"}, (1, 0)),
    ],
)
def test_bos_and_eos_of_a_tokenizer_json(
    tmp_path: Path, special: tuple[str, ...], given_names: dict[str, str], expected: tuple[int, int]
) -> None:
    make_hf(tmp_path / "hf.json", special)
    tokenizer = load("hf", tmp_path / "hf.json", **given_names)
    assert (tokenizer.bos, tokenizer.eos) == expected


def test_an_unknown_bos_or_eos_is_rejected(files: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"found no token '<x>'; change data.tokenizer.eos"):
        load("hf", files["hf"], eos="<x>")


def test_a_missing_bos_or_eos_matters_only_if_it_is_added(tmp_path: Path) -> None:
    write_source(tmp_path, [["The sum", "of"]])
    make_sp(tmp_path / "sp", bos_id=-1)
    config = TokenizerConfig(name="sp", path=str(tmp_path / "sp"))
    with pytest.raises(ConfigError, match=r"found no BOS; expected one, since data.add_bos"):
        ensure_shards(tmp_path, "src", tmp_path / "shards", config)
    shards = ensure_shards(tmp_path, "src", tmp_path / "shards", config, add_bos=False)
    eos = sentencepiece.SentencePieceProcessor(str(tmp_path / "sp")).eos_id()
    assert (shards.train == eos).sum() == 2


def test_a_tokenizer_json_does_not_truncate_documents(tmp_path: Path) -> None:
    make_hf(tmp_path / "cuts", truncate=True)
    make_hf(tmp_path / "plain")
    text = "The sum of number 12345"
    assert load("hf", tmp_path / "cuts").encode(text).tolist() == directly(
        "hf", tmp_path / "plain", text
    )


def test_a_very_long_document_survives(files: dict[str, Path]) -> None:
    text = "The sum 12 " * 80_000 + "x" * 1000
    tokenizer = load("tiktoken", files["tiktoken"])
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_changes_with_the_file(
    tmp_path: Path, files: dict[str, Path], name: str
) -> None:
    same = tmp_path / "same"
    same.write_bytes(files[name].read_bytes())
    before = load(name, files[name]).fingerprint
    assert load(name, same).fingerprint == before
    if name == "hf":
        assert load(name, same, eos="<s>").fingerprint != before
    changed = tmp_path / "changed"
    {
        "hf": lambda: make_hf(changed, ("<s>", "</s>", "<z>")),
        "tiktoken": lambda: changed.write_bytes(same.read_bytes() + b"IGE= 261\n"),
        "sp": lambda: make_sp(changed, bos_id=-1),
    }[name]()
    assert load(name, changed).fingerprint != before


@pytest.mark.parametrize("name", NAMES)
def test_n_words_is_checked(files: dict[str, Path], name: str) -> None:
    size = load(name, files[name]).vocab_size
    assert load(name, files[name], n_words=size).vocab_size == size
    typo = size + 1 if (size + 1) % 8 else size + 2
    with pytest.raises(ConfigError, match=f"found {size} token ids.*n_words = {typo}"):
        load(name, files[name], n_words=typo)


@pytest.mark.parametrize("name", ["bytes", *NAMES])
def test_a_larger_n_words_pads_the_vocabulary(
    tmp_path: Path, files: dict[str, Path], name: str
) -> None:
    """The model has more ids than the tokenizer; the tokens and their shards are the same."""
    path = None if name == "bytes" else str(files[name])
    plain = TokenizerConfig.model_validate({"name": name, "path": path})
    padded = plain.model_copy(update={"n_words": 50304})
    assert padded.vocab_size == 50304
    assert build_tokenizer(padded).vocab_size == plain.vocab_size < 1000
    write_source(tmp_path, [CORPUS])
    made = [ensure_shards(tmp_path, "src", tmp_path / "shards", kind) for kind in (plain, padded)]
    assert made[0].folder == made[1].folder
    too_few = plain.model_copy(update={"n_words": 256})
    with pytest.raises(ConfigError, match=r"or a larger multiple of 8 to pad the vocabulary"):
        build_tokenizer(too_few)


def test_n_words_of_bytes_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"found 258 token ids.*n_words = 300"):
        build_tokenizer(TokenizerConfig(n_words=300))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [None, b"\x00\xff no tokenizer", b""])
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / f"{name}.file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name}.file: 1 problem\n.*cannot be read"):
        load(name, path)


@pytest.mark.parametrize("name", NAMES)
def test_a_fifo_is_no_tokenizer(tmp_path: Path, name: str) -> None:
    """Reading it, to train or to count its ids while planning, waited forever."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="found a FIFO; expected a file"):
        load(name, path)
    if name not in ENCODING_SIZES:  # known without their files
        with pytest.raises(ConfigError, match="found a FIFO; expected a file"):
            vocabulary_size(name, str(path))


def test_ranks_may_have_any_order_but_no_foreign_character(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    lines, path = files["tiktoken"].read_text().splitlines(), tmp_path / "ranks"
    path.write_text("\n".join([*reversed(lines), "", ""]))
    text = "The number 12"
    assert load("tiktoken", path).encode(text).tolist() == (
        load("tiktoken", files["tiktoken"]).encode(text).tolist()
    )
    path.write_text("\n".join([f"!{lines[0]}", *lines[1:]]))
    with pytest.raises(ConfigError, match=r"ranks: 1 problem\n  cannot be read as the file of a"):
        load("tiktoken", path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file or directory"), (b"{}", "found no 'model'"), (b"[", "Expecting value: ")],
)
def test_a_file_without_a_vocabulary_is_named(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """As the study reads it: it said [Errno 2] and the path again, or only 'model'."""
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        _ = TokenizerConfig(name="hf", path=str(path)).vocab_size
    problem = "  cannot be read as the file of a tokenizer 'hf': "
    assert str(refused.value).startswith(f"{path}: 1 problem\n{problem}{reason}")


@pytest.mark.parametrize(
    ("name", "package"), [("hf", "tokenizers"), ("tiktoken", "tiktoken"), ("sp", "sentencepiece")]
)
def test_a_missing_library_is_named(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        load(name, files[name], n_words=300)


def test_a_large_vocabulary_takes_four_bytes_per_id(tmp_path: Path) -> None:
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [b"%06d" % number for number in range(2**16 - 256)]
    path = tmp_path / "ranks"
    path.write_bytes(b"".join(b"%b %d\n" % (base64.b64encode(t), i) for i, t in enumerate(tokens)))
    write_source(tmp_path, [["a", "bc"]])
    config = TokenizerConfig(name="tiktoken", path=str(path))
    shards = ensure_shards(tmp_path, "src", tmp_path / "shards", config)
    assert shards.dtype == "<u4"
    assert shards.train.tolist() == [65536, 97, 65537, 65536, 98, 99, 65537]
    assert np.fromfile(shards.folder / "train.bin", "<u4").tolist() == shards.train.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_the_command_accepts_tokenizers(tmp_path: Path, files: dict[str, Path], name: str) -> None:
    write_source(tmp_path, [CORPUS])
    command = ["--root-dir", str(tmp_path), "--source", "src", "--shards-dir", str(tmp_path / "s")]
    command += ["--output", str(tmp_path / "o.json"), f"--tokenizer={name}"]
    assert main([*command, f"--tokenizer-path={files[name]}"]) == 0
    (folder,) = (tmp_path / "s").iterdir()
    assert folder.name.startswith(f"src-{name}-")
    tokenizer = load(name, files[name])
    expected: list[int] = []
    for text in CORPUS:
        expected += [tokenizer.bos, *directly(name, files[name], text), tokenizer.eos]
    assert np.fromfile(folder / "train.bin", "<u2").tolist() == expected
    assert main(command) == 1  # the path is missing


ENCODINGS = ("gpt2", "cl100k_base", "o200k_base")
MIXED = st.lists(
    st.one_of(
        st.sampled_from(
            ["The", " sum", "'S", "'ll", "12345", " \n\r\n", "  x", "naïve", "日本", "ǅ"]
        ),
        st.sampled_from(
            ["<|endoftext|>", "<|fim_prefix|>", "ſ", "\u2028", "🎉", "/\n", "HTTPServer"]
        ),
        st.characters(exclude_categories=["Cs"]),
    )
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Tiny files in place of the published ones: name -> path; and the library's own encodings."""
    folder = tmp_path_factory.mktemp("published")
    make_tiktoken(folder / "ranks")
    latin = "".join(map(chr, [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]))
    merges = ["#version: 0.2", "T h", "Th e", "Ġ s", "Ċ Ċ", "ï v"]
    (folder / "vocab.bpe").write_text("\n".join(merges) + "\n")
    tokens = [*latin, *(chr(0x100 + number) for number in range(68))]
    tokens += [merge.replace(" ", "") for merge in merges[1:]]
    vocabulary = {token: rank for rank, token in enumerate(tokens)}
    (folder / "encoder.json").write_text(json.dumps({**vocabulary, "<|endoftext|>": 50256}))
    paths = {name: folder / "ranks" for name in ENCODINGS} | {"gpt2": folder / "vocab.bpe"}

    def read_file(url: str, expected_hash: str | None = None) -> bytes:
        name = url.rpartition("/")[2]
        return (folder / (name if (folder / name).exists() else "ranks")).read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiktoken.load, "read_file_cached", read_file)
        theirs = {name: getattr(openai_public, name)() for name in ENCODINGS}
    theirs["gpt2"].pop("explicit_n_vocab")  # of the whole file
    return {name: (path, tiktoken.Encoding(**theirs[name])) for name, path in paths.items()}


def load_tiny(name: str, path: Path) -> Tokenizer:
    """Load a named encoding from a tiny file, whose checksum stands for the published one's."""
    published = encodings.ENCODINGS[name]
    *_, (url, read) = published.files.values()
    if path.suffix == ".bpe":
        (url, read), *_ = published.files.values()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.MonkeyPatch.context() as patch:
        tiny = replace(published, files={digest: (url, read)})
        patch.setitem(encodings.ENCODINGS, name, tiny)
        return load(name, path)


@pytest.mark.parametrize("name", ENCODINGS)
@settings(max_examples=60)
@given(words=MIXED)
def test_ids_of_a_named_encoding_match_the_librarys(
    published: dict[str, Any], name: str, words: list[str]
) -> None:
    path, theirs = published[name]
    ours, text = load_tiny(name, path), "".join(words)
    assert ours.encode(text).tolist() == theirs.encode_ordinary(text)
    assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize(
    ("name", "size", "end"),
    [("gpt2", 50257, 50256), ("cl100k_base", 100277, 100257), ("o200k_base", 200019, 199999)],
)
def test_special_tokens_of_a_named_encoding(
    published: dict[str, Any], name: str, size: int, end: int
) -> None:
    path, theirs = published[name]
    ours = load_tiny(name, path)
    assert (ours.vocab_size, ours.bos, ours.eos) == (size, end, end)
    assert (theirs.n_vocab, theirs.eot_token) == (size, end)
    assert dict(encodings.ENCODINGS[name].special_tokens) == theirs._special_tokens
    assert ours.decode(np.array([end, *ours.encode("The").tolist(), end])) == "The"
    # The study counts parameters where the file may not be.
    config = TokenizerConfig(name=name, path="elsewhere")  # type: ignore[arg-type]
    assert config.vocab_size == size


def test_both_files_of_gpt2_have_one_encoding(published: dict[str, Any]) -> None:
    """vocab.bpe lists merges; r50k_base.tiktoken the same tokens as ranks."""
    path, theirs = published["gpt2"]
    ranks = path.with_name("r50k")
    pairs = sorted(theirs._mergeable_ranks.items(), key=lambda pair: pair[1])
    ranks.write_bytes(b"".join(b"%b %d\n" % (base64.b64encode(t), rank) for t, rank in pairs))
    text = "The The sums\n\nnaïve"
    by_ranks, by_merges = (load_tiny("gpt2", file).encode(text) for file in (ranks, path))
    assert by_ranks.tolist() == by_merges.tolist() == theirs.encode(text)


def test_another_file_than_the_names_is_rejected_in_one_line(tmp_path: Path) -> None:
    """A wrong file would give ids without an error. The checksums are the published ones."""
    make_tiktoken(tmp_path / "cl100k_base.tiktoken")
    found = hashlib.sha256((tmp_path / "cl100k_base.tiktoken").read_bytes()).hexdigest()
    with pytest.raises(ConfigError) as caught:
        load("cl100k_base", tmp_path / "cl100k_base.tiktoken")
    assert str(caught.value) == (
        f"{tmp_path}/cl100k_base.tiktoken: 1 problem\n"
        f"  found the SHA-256 {found}; tokenizer 'cl100k_base' has the file "
        "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken "
        "(223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7)"
    )
    with pytest.raises(ConfigError, match=r"name = gpt2 needs `path`, the file of"):
        validate(TokenizerConfig, {"name": "gpt2"}, "run.yaml")


def test_the_library_has_the_same_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, str | None] = {}

    def note(url: str, expected_hash: str | None = None) -> bytes:
        asked[url] = expected_hash
        raise OSError

    monkeypatch.setattr(tiktoken.load, "read_file_cached", note)
    for name in (*ENCODINGS, "r50k_base"):
        with pytest.raises(OSError):
            getattr(openai_public, name)()
    ours = {
        url: digest
        for encoding in encodings.ENCODINGS.values()
        for digest, (url, _) in encoding.files.items()
    }
    assert ours == asked
