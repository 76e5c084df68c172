"""The encodings of tiktoken that have a name: GPT-2's, GPT-4's and GPT-4o's. Imports no torch.

Each has a published file, which is recognised by its SHA-256, a pre-tokenisation pattern and
special tokens, as in tiktoken_ext/openai_public.py. That module downloads the files; here they are
read from a path.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trainer.tokens.tokenizer import byte_characters

Ranks = dict[bytes, int]

END_OF_TEXT = "<|endoftext|>"
"""The token between documents: BOS and EOS of every encoding here."""

FILES = "https://openaipublic.blob.core.windows.net"


def read_ranks(content: bytes) -> Ranks:
    """Return the ranks in a file of lines: a base64 token and its rank. Raises ValueError."""
    lines = [line.split() for line in content.splitlines() if line.strip()]
    ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    if sorted(ranks.values()) != list(range(len(lines))):
        raise ValueError(f"found {len(lines):,} lines; expected the ranks 0, 1, 2, ...")
    return ranks


def read_merges(content: bytes) -> Ranks:
    """Return the ranks in GPT-2's vocab.bpe: the bytes, then a merge of two tokens per line.

    The bytes are in the order of the characters that stand for them.
    """
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    tokens = [bytes([byte_of[character]]) for character in sorted(byte_of)]
    for line in content.decode().splitlines()[1:]:  # the first one is the version
        tokens.append(bytes(byte_of[character] for character in line.replace(" ", "")))
    return {token: rank for rank, token in enumerate(tokens)}


@dataclass(frozen=True)
class NamedEncoding:
    """An encoding of tiktoken."""

    files: Mapping[str, tuple[str, Callable[[bytes], Ranks]]]
    """SHA-256 of a published file -> where it is from, and its reader."""
    pattern: str
    """Regular expression that splits a text before the merges."""
    special_tokens: Mapping[str, int]


def _file(name: str, sha256: str) -> dict[str, tuple[str, Callable[[bytes], Ranks]]]:
    return {sha256: (f"{FILES}/encodings/{name}.tiktoken", read_ranks)}


_LETTER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CAPITAL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

ENCODINGS = {
    "gpt2": NamedEncoding(
        # r50k_base has the same tokens, ranks and pattern.
        files={
            "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5": (
                f"{FILES}/gpt-2/encodings/main/vocab.bpe",
                read_merges,
            ),
            **_file(
                "r50k_base", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
            ),
        },
        pattern=r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        special_tokens={END_OF_TEXT: 50256},
    ),
    "cl100k_base": NamedEncoding(
        files=_file(
            "cl100k_base", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
        ),
        pattern=r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        special_tokens={
            END_OF_TEXT: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": NamedEncoding(
        files=_file(
            "o200k_base", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
        ),
        pattern=rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITAL}*{_LETTER}+{_SUFFIX}"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_CAPITAL}+{_LETTER}*{_SUFFIX}|\p{{N}}{{1,3}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        special_tokens={END_OF_TEXT: 199999, "<|endofprompt|>": 200018},
    ),
}
