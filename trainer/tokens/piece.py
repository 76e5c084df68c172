"""What readers of text files exchange: pieces of files, and documents. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from trainer.tokens.tokenizer import Tokens


@dataclass(frozen=True)
class Piece:
    """A part of a text file, of whole documents."""

    path: Path
    start: int = 0
    stop: int | None = None
    """The range is bytes of a plain JSONL file (the lines that begin there), rows of a Parquet or
    Arrow file (whole row groups or record batches), or documents of a Megatron file. A compressed
    file is a single piece. None: to the end."""


@dataclass(frozen=True)
class PreTokenised:
    """A document that a file holds as token ids."""

    ids: Tokens
    """(tokens,) of any integer type, not checked."""
    path: Path
    where: str
    """Its place in the file, for messages, such as "row 7"."""


Document = str | PreTokenised
