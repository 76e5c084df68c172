"""Tokenizers of three libraries, trained on a few lines."""

import base64
import io
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

CORPUS = [
    f"The {word} of number {number}, naïve.\n" for number in range(50) for word in ("a", "sum")
]
NAMES = ["hf", "tiktoken", "sp"]


def make_hf(path: Path, special: tuple[str, ...] = ("<s>", "</s>"), **changes: Any) -> None:
    tokenizer = tokenizers.Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=320, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if changes.get("truncate"):
        tokenizer.enable_truncation(3)
        tokenizer.enable_padding(length=50)
    tokenizer.save(str(path))


def make_tiktoken(path: Path) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"Th", b"The", b" n", b" nu", b"12"]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    path.write_text("\n".join(lines) + "\n")


def make_sp(path: Path, **options: Any) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    path.write_bytes(model.getvalue())


MAKE = {"hf": make_hf, "tiktoken": make_tiktoken, "sp": make_sp}
