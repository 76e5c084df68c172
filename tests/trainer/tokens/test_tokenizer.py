"""Bytes to ids and back."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import TokenizerConfig
from trainer.tokens.build_tokenizer import build_tokenizer

TOKENIZER = build_tokenizer(TokenizerConfig(name="bytes"))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_survives(text: str) -> None:
    tokens = TOKENIZER.encode(text)
    assert tokens.dtype == np.uint16
    assert bytes(tokens.tolist()) == text.encode()
    assert TOKENIZER.decode(tokens) == text


def test_special_ids_decode_to_nothing() -> None:
    tokens = np.array([256, 104, 105, 257, 256], np.uint16)
    assert (TOKENIZER.bos, TOKENIZER.eos, TOKENIZER.vocab_size) == (256, 257, 258)
    assert TOKENIZER.decode(tokens) == "hi"


def test_lone_surrogates_are_replaced() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800b")) == "a?b"
    assert TOKENIZER.decode(np.array([0xC3], np.uint16)) == "\ufffd"


def test_data_modules_load_no_torch() -> None:
    code = (
        "import sys, trainer.tokens.tokenizer, trainer.tokens.shards, trainer.tokens.data; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
