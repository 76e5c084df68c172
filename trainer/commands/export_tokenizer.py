"""Exports a run's tokenizer as files that transformers reads."""

import json
import shutil
from pathlib import Path
from typing import Any

from trainer.config import DataConfig
from trainer.json_files import parse_json
from trainer.tokens.tokenizer import Tokenizer, byte_characters
from trainer.vocabulary import token_texts

BOS, EOS = "<|bos|>", "<|eos|>"
"""Strings of the special tokens of `bytes`: a tokenizer.json needs a string for every token."""

FILE_NAMES = {"tiktoken": "tokenizer.model", "sp": "tokenizer.model"}


def write_tokenizer(folder: Path, data: DataConfig, tokenizer: Tokenizer) -> str:
    """Write the files of a run's tokenizer; return instructions for loading them, in Markdown."""
    name, path = data.tokenizer.name, data.tokenizer.path
    if path is None:
        values = byte_tokenizer_json(tokenizer)
    elif name == "hf":
        values = parse_json(Path(path).read_bytes())
    else:
        return _copy_unsupported(folder, name, path)
    values["post_processor"] = _post_processor(values, tokenizer, data)
    write_json(folder / "tokenizer.json", values)
    write_json(folder / "tokenizer_config.json", _describe(values, tokenizer, data))
    adds = "adds BOS before a text, not" if data.add_bos else "adds neither BOS nor"
    loading = "Load model and tokenizer with `AutoModelForCausalLM` and `AutoTokenizer`"
    return f"{loading}; the tokenizer {adds} EOS."


def _copy_unsupported(folder: Path, name: str, path: str) -> str:
    """Copy the file of a tokenizer that transformers does not load."""
    file = FILE_NAMES.get(name, Path(path).name)
    shutil.copyfile(path, folder / file)
    return (
        f"`AutoTokenizer` does not support this `{name}` tokenizer. Load it with this project:\n\n"
        "```python\nfrom trainer.config import TokenizerConfig\n"
        "from trainer.tokens.build_tokenizer import build_tokenizer\n\n"
        f'tokenizer = build_tokenizer(TokenizerConfig(name="{name}", path="{file}"))\n```'
    )


def byte_tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the tokenizer.json of `bytes`: byte-level BPE without merges."""
    specials = ((tokenizer.bos, BOS), (tokenizer.eos, EOS))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": text, **flags, "special": True} for number, text in specials
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {character: byte for byte, character in enumerate(byte_characters())},
            "merges": [],
        },
    }


def _post_processor(
    values: dict[str, Any], tokenizer: Tokenizer, data: DataConfig
) -> dict[str, Any] | None:
    """Return the part of a tokenizer.json that adds BOS to each text, if training added it.

    What else adds tokens in the file is dropped: it did not in training.
    """
    given = values.get("post_processor") or {}
    kept = [
        part
        for part in given.get("processors", [given])
        if part.get("type") == "ByteLevel"  # adds nothing; it trims the offsets of tokens
    ]
    bos = token_texts(values).get(tokenizer.bos)
    if data.add_bos and bos is not None:
        first, second = (
            [{"SpecialToken": {"id": bos, "type_id": n}}, {"Sequence": {"id": name, "type_id": n}}]
            for n, name in enumerate("AB")
        )
        kept.append(
            {
                "type": "TemplateProcessing",
                "single": first,
                "pair": [*first, *second],
                "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos], "tokens": [bos]}},
            }
        )
    if len(kept) < 2:
        return kept[0] if kept else None
    return {"type": "Sequence", "processors": kept}


def _describe(values: dict[str, Any], tokenizer: Tokenizer, data: DataConfig) -> dict[str, Any]:
    """Return the tokenizer_config.json that goes with a tokenizer.json."""
    texts = token_texts(values)
    bos = texts.get(tokenizer.bos)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": texts.get(tokenizer.eos),
        "model_max_length": data.seq_len,
        "clean_up_tokenization_spaces": False,  # it changes the decoded text
        # Whether a special-token string in a document is text or the token, as in training.
        "split_special_tokens": bos is not None and tokenizer.bos not in tokenizer.encode(bos),
    }


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write one of the JSON files of an export."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
