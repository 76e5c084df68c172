"""Sums of what was packed, and what is said while a source is tokenised."""

from types import SimpleNamespace

import numpy as np
import pytest

from trainer.config import TokenizerConfig
from trainer.tokens import packing
from trainer.tokens.packing import Encoding, Part, Progress


def test_parts_add_up() -> None:
    """The bytes of text are known if they are of both."""
    assert Part(1, 20, 300) + Part(4, 50, 600) == Part(5, 70, 900)
    unknown = Part(4, 50, None)
    assert Part(1, 20, 300) + unknown == unknown + Part(1, 20, 300) == Part(5, 70, None)


@pytest.mark.parametrize(("ids", "dtype"), [(258, "<u2"), (65_536, "<u2"), (65_537, "<u4")])
def test_two_bytes_hold_65536_ids(ids: int, dtype: str) -> None:
    encoding = Encoding(TokenizerConfig())
    vars(encoding)["tokenizer"] = SimpleNamespace(vocab_size=ids)
    assert encoding.dtype == np.dtype(dtype)


def test_progress_is_told_every_five_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 MB/s, of 1,000 MB; later all of it and more, as of a file that has grown."""
    now = 100.0
    monkeypatch.setattr(packing, "time", SimpleNamespace(monotonic=lambda: now))
    progress = Progress("web", "tokenised", 1_000_000_000)
    for second in range(1, 13):
        now = 100.0 + second
        progress.advance(2_000_000)
    assert capsys.readouterr().out.splitlines() == [
        "web: 10 of 1,000 MB tokenised, 2.0 MB/s, left 8:15",
        "web: 20 of 1,000 MB tokenised, 2.0 MB/s, left 8:10",
    ]
    now = 200.0
    progress.advance(1_176_000_000)
    assert capsys.readouterr().out == "web: 1,200 of 1,000 MB tokenised, 12.0 MB/s, left 0:00\n"
