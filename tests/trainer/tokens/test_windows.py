"""The windows of held-out text."""

from pathlib import Path

import numpy as np

from tests.trainer.tokens.conftest import Make
from trainer.tokens.packing import Part
from trainer.tokens.shard_folder import Shards
from trainer.tokens.windows import count_validation_windows, validation_windows


def test_validation_windows_take_turns(make_shards: Make) -> None:
    shards = {
        "b": make_shards(9, val=14, first=1000),
        "a": make_shards(9, val=9, first=0),
        "c": make_shards(9, val=3, first=2000),  # less than one window
        "d": make_shards(9, val=0, first=3000),
    }
    windows = validation_windows(shards, 4, None)
    assert windows[:, 0].tolist() == [0, 1000, 4, 1004, 1008]
    assert (np.diff(windows.astype(int)) == 1).all() and windows.shape == (5, 5)
    assert validation_windows(shards, 4, 3).tolist() == windows[:3].tolist()
    assert validation_windows(shards, 4, 99).tolist() == windows.tolist()
    assert validation_windows({"d": shards["d"]}, 4, None).shape == (0, 5)
    assert count_validation_windows(shards, 4, None) == {"a": 2, "b": 3, "c": 0, "d": 0}
    assert count_validation_windows(shards, 4, 3) == {"a": 2, "b": 1, "c": 0, "d": 0}
    assert count_validation_windows({"d": shards["d"]}, 4, None) == {"d": 0}


def test_ids_beyond_16_bits_stay_as_they_are(tmp_path: Path) -> None:
    """Of a vocabulary of more than 65,536 ids."""
    ids = np.arange(70_000, 70_009, dtype="<u4")
    ids.tofile(tmp_path / "val.bin")
    shards = Shards(tmp_path, "key", "<u4", Part(1, 9, 9), Part(1, 9, 9))
    windows = validation_windows({"a": shards}, 4, None)
    assert windows.tolist() == [ids[:5].tolist(), ids[4:].tolist()]
