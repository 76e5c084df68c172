"""Shards of known tokens."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainer.tokens.packing import Part
from trainer.tokens.shard_folder import Shards

Make = Callable[..., Shards]


@pytest.fixture
def make_shards(tmp_path: Path) -> Make:
    """Shards whose token number n is `first + n`, so that a token tells where it stood."""

    def make(train: int, val: int = 0, first: int = 0) -> Shards:
        folder = tmp_path / f"{first}-{train}-{val}"
        folder.mkdir()
        (np.arange(train) + first).astype("<u2").tofile(folder / "train.bin")
        (np.arange(val) + first).astype("<u2").tofile(folder / "val.bin")
        return Shards(folder, "key", "<u2", Part(1, train, train), Part(1, val, val))

    return make
