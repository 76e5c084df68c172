"""The interface of a tokenizer, and the byte tokenizer. Imports no torch."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.config import BYTE_VOCABULARY

Tokens = NDArray[np.unsignedinteger]


class Tokenizer(Protocol):
    """What shards and export need of a tokenizer."""

    name: str
    """Its name in a config and in the names of shard folders."""
    vocab_size: int
    """Number of token ids, V, including special ones."""
    bos: int
    """Id of the token before a document; -1 if there is none."""
    eos: int
    """Id of the token after a document; -1 if there is none."""

    @property
    def fingerprint(self) -> str:
        """A string that changes with anything that changes the ids."""
        ...

    def encode(self, text: str) -> Tokens:
        """Return the ids of a text, (tokens,), without BOS and EOS."""
        ...

    def decode(self, tokens: Tokens) -> str:
        """Return the text of ids (tokens,); BOS and EOS are left out."""
        ...


class ByteTokenizer:
    """Ids are the UTF-8 bytes of a text; BOS 256, EOS 257."""

    name = "bytes"
    vocab_size = BYTE_VOCABULARY
    bos = 256
    eos = 257

    @property
    def fingerprint(self) -> str:
        """A string that changes with anything that changes the ids."""
        return f"bytes bos={self.bos} eos={self.eos}"

    def encode(self, text: str) -> NDArray[np.uint16]:
        """Return the bytes of a text, (bytes,).

        A lone surrogate, which JSON allows but UTF-8 does not, becomes a question mark.
        """
        return np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.uint16)

    def decode(self, tokens: Tokens) -> str:
        """Return the text of ids (tokens,); BOS and EOS are left out.

        Bytes that are not valid UTF-8, as at the edge of a window, become U+FFFD.
        """
        return tokens[tokens < self.bos].astype(np.uint8).tobytes().decode("utf-8", "replace")


def byte_characters() -> list[str]:
    """Return the character for each byte in byte-level BPE (GPT-2).

    Printable Latin-1 bytes map to themselves, the others to U+0100 and up, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(b if b in printable else 0x100 + others.index(b)) for b in range(256)]
