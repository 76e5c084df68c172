"""The token ids of a tokenizer file, and their number, read without its library if possible.

The study counts parameters while it plans; the tokenizer's library may not be installed there.
"""

from functools import cache
from pathlib import Path
from typing import Any

from trainer.files import stat_readable
from trainer.json_files import parse_json
from trainer.problems import ConfigError

TIKTOKEN_SPECIALS = 256
"""Special tokens after the ranks, as in Llama 3 and lingua."""

ENCODING_SIZES = {"cl100k_base": 100_277, "o200k_base": 200_019, "gpt2": 50_257}
"""Encoding of tiktoken -> V: one more than its largest id, unused ids included."""


@cache
def vocabulary_size(name: str, path: str) -> int:
    """Return V of the file of tokenizer `name`, all but bytes. Raises ConfigError.

    The sizes of tiktoken's encodings are known without their files.
    """
    if name in ENCODING_SIZES:
        return ENCODING_SIZES[name]
    try:
        stat_readable(path)
        if name == "hf":
            return max(token_texts(parse_json(Path(path).read_bytes()))) + 1
        if name == "tiktoken":
            ranks = sum(1 for line in Path(path).read_bytes().splitlines() if line.strip())
            return ranks + TIKTOKEN_SPECIALS
        from sentencepiece import SentencePieceProcessor

        return int(SentencePieceProcessor(model_file=path).vocab_size())
    except ImportError:
        needs = "needs `pip install sentencepiece`; or set data.tokenizer.n_words"
        raise ConfigError(path, [f"data.tokenizer: {needs}"]) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise unreadable_tokenizer(name, path, error) from None


def unreadable_tokenizer(name: str, path: str, error: Exception) -> ConfigError:
    """Return the error for a file that is none of tokenizer `name`."""
    reason = getattr(error, "strerror", None) or error
    reason = f"found no {error}" if isinstance(error, KeyError) else reason
    problem = f"cannot be read as the file of a tokenizer '{name}': {reason}"
    return ConfigError(path, [problem])


def token_texts(tokenizer: dict[str, Any]) -> dict[int, str]:
    """Return id -> string of the tokens in a tokenizer.json."""
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, dict):
        texts = {number: text for text, number in vocabulary.items()}
    else:  # unigram: pieces with scores
        texts = {number: piece[0] for number, piece in enumerate(vocabulary)}
    return texts | {token["id"]: token["content"] for token in tokenizer.get("added_tokens", [])}
