"""Tokenizers from files, each with the library for its format. Imports no torch.

Special-token strings in a document are encoded as plain text. A lone surrogate, which JSON allows
but UTF-8 does not, becomes a question mark.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config import TokenizerConfig
from trainer.files import stat_readable
from trainer.problems import ConfigError
from trainer.tokens.encodings import ENCODINGS, END_OF_TEXT, Ranks, read_ranks
from trainer.tokens.tokenizer import Tokenizer, Tokens
from trainer.vocabulary import ENCODING_SIZES, TIKTOKEN_SPECIALS, unreadable_tokenizer

KNOWN_ENDS = (
    ("<|begin_of_text|>", "<|end_of_text|>"),
    ("<s>", "</s>"),
    ("<bos>", "<eos>"),
    ("<|endoftext|>", "<|endoftext|>"),
)
"""BOS and EOS of well-known tokenizer.json files; the first pair with a match is used."""

PATTERN = ENCODINGS["cl100k_base"].pattern
"""Pre-tokenisation pattern of Llama 3 and lingua."""
TIKTOKEN_CHARS = 400_000
"""Characters encoded in one call, as in lingua: more overflow the library's stack."""

INSTALL = {"hf": "tokenizers", "sp": "sentencepiece"}
"""Package that a tokenizer needs; all others need tiktoken."""


class FileTokenizer:
    """Common parts of the tokenizers."""

    def __init__(self, name: str, path: Path, vocab_size: int, bos: int, eos: int) -> None:
        self.name, self.vocab_size, self.bos, self.eos = name, vocab_size, bos, eos
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.fingerprint = f"{name} sha256={digest} bos={bos} eos={eos}"

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Return the ids of a text, (tokens,), without BOS and EOS."""
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode("utf-8")
        return np.array(self._encode(text), np.uint32)

    def decode(self, tokens: Tokens) -> str:
        """Return the text of ids (tokens,); BOS and EOS are left out."""
        return self._decode(tokens[(tokens != self.bos) & (tokens != self.eos)].tolist())

    def _encode(self, text: str) -> Sequence[int]:
        raise NotImplementedError

    def _decode(self, ids: list[int]) -> str:
        raise NotImplementedError


class HfTokenizer(FileTokenizer):
    """A tokenizer.json of the Hugging Face hub."""

    def __init__(self, config: TokenizerConfig, path: Path) -> None:
        from tokenizers import Tokenizer as Library

        self._library = Library.from_file(str(path))
        self._library.encode_special_tokens = True  # as plain text
        self._library.no_truncation()  # a file may enable it, which would cut documents
        self._library.no_padding()
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        added = self._library.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special}  # not Gemma's plain tag <s>
        known_ends = next((pair for pair in KNOWN_ENDS if special & set(pair)), ("", ""))
        ends = []
        for key, given, fallback in zip(
            ("bos", "eos"), (config.bos, config.eos), known_ends, strict=True
        ):
            if given is not None and given not in vocabulary:
                problem = f"found no token '{given}'; change data.tokenizer.{key}"
                raise ConfigError(str(path), [problem])
            known = given if given is not None else fallback if fallback in special else ""
            ends.append(vocabulary.get(known, -1))
        super().__init__("hf", path, max(vocabulary.values()) + 1, *ends)

    def _encode(self, text: str) -> Sequence[int]:
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids

    def _decode(self, ids: list[int]) -> str:
        return str(self._library.decode(ids, skip_special_tokens=True))


class TiktokenBase(FileTokenizer):
    """Common parts of the tokenizers of tiktoken."""

    def _load(self, pattern: str, ranks: Ranks, special_tokens: Mapping[str, int]) -> None:
        """Build the encoding. The library's own loader caches by path and would miss a new file."""
        import tiktoken

        self._ranks = len(ranks)
        self._library = tiktoken.Encoding(
            "", pat_str=pattern, mergeable_ranks=ranks, special_tokens=dict(special_tokens)
        )

    def _encode(self, text: str) -> Sequence[int]:
        ids: list[int] = []
        for start in range(0, len(text), TIKTOKEN_CHARS):
            ids += self._library.encode_ordinary(text[start : start + TIKTOKEN_CHARS])
        return ids

    def _decode(self, ids: list[int]) -> str:
        return str(self._library.decode([number for number in ids if number < self._ranks]))


class TiktokenTokenizer(TiktokenBase):
    """A file of base64 tokens and their ranks, with the special tokens of Llama 3 after them."""

    def __init__(self, config: TokenizerConfig, path: Path) -> None:
        ranks = read_ranks(path.read_bytes())
        count = len(ranks)
        special = {"<|begin_of_text|>": count, "<|end_of_text|>": count + 1}
        for number in range(len(special), TIKTOKEN_SPECIALS):
            special[f"<|reserved_special_token_{number}|>"] = count + number
        self._load(PATTERN, ranks, special)
        super().__init__("tiktoken", path, count + TIKTOKEN_SPECIALS, count, count + 1)


class NamedTokenizer(TiktokenBase):
    """An encoding of tiktoken by its name. BOS and EOS are its <|endoftext|>."""

    def __init__(self, config: TokenizerConfig, path: Path) -> None:
        name, content = config.name, path.read_bytes()
        encoding, found = ENCODINGS[name], hashlib.sha256(content).hexdigest()
        if found not in encoding.files:
            known = " or ".join(f"{where} ({sha})" for sha, (where, _) in encoding.files.items())
            problem = f"found the SHA-256 {found}; tokenizer '{name}' has the file {known}"
            raise ConfigError(str(path), [problem])
        _, read = encoding.files[found]
        self._load(encoding.pattern, read(content), encoding.special_tokens)
        end = encoding.special_tokens[END_OF_TEXT]
        super().__init__(name, path, ENCODING_SIZES[name], end, end)


class SentencePieceTokenizer(FileTokenizer):
    """A SentencePiece model, as of Llama 2 and T5."""

    def __init__(self, config: TokenizerConfig, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self._library = SentencePieceProcessor(model_file=str(path))
        ends = self._library.bos_id(), self._library.eos_id()  # -1 if there is none
        super().__init__("sp", path, self._library.vocab_size(), *ends)

    def _encode(self, text: str) -> Sequence[int]:
        ids: list[int] = self._library.encode(text)
        return ids

    def _decode(self, ids: list[int]) -> str:
        return str(self._library.decode(ids))


KINDS: dict[str, Any] = {
    "hf": HfTokenizer,
    "tiktoken": TiktokenTokenizer,
    "sp": SentencePieceTokenizer,
    **dict.fromkeys(ENCODINGS, NamedTokenizer),
}


def load_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Read the tokenizer file that a config names. Raises ConfigError."""
    path = Path(str(config.path))
    try:
        stat_readable(path)
        path.read_bytes()
        tokenizer: Tokenizer = KINDS[config.name](config, path)
    except ImportError:
        needs = (
            f"tokenizer '{config.name}' needs: pip install {INSTALL.get(config.name, 'tiktoken')}"
        )
        raise ConfigError(str(path), [needs]) from None
    except ConfigError:
        raise
    except Exception as error:  # the libraries raise bare Exceptions for a damaged file
        raise unreadable_tokenizer(config.name, str(path), error) from None
    return tokenizer
