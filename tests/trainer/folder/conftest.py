"""Models from elsewhere, which several files of tests read."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.folder.other_models import make_llama, write_lingua


@pytest.fixture(scope="session")
def gqa() -> dict[str, Any]:
    return {"n_kv_heads": 2}


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory, gqa: dict[str, Any]) -> Path:
    """One model of each kind, with the same weights: hf, hf-shards, lingua."""
    folder = tmp_path_factory.mktemp("originals")
    llama = make_llama(gqa)
    llama.save_pretrained(folder / "hf")
    llama.save_pretrained(folder / "hf-shards", max_shard_size="100KB")
    write_lingua(folder / "lingua", llama, gqa)
    return folder


@pytest.fixture
def kinds(tmp_path: Path, originals: Path) -> Path:
    """A copy, to be damaged."""
    shutil.copytree(originals, tmp_path / "kinds")
    return tmp_path / "kinds"
