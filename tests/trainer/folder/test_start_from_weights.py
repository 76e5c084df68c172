"""Which weights a run may start from, and what is left alone if it may not."""

import shutil
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from tests.trainer.small_runs import ALONE, SHAPE, make_run, run_config
from trainer.config import RunConfig
from trainer.folder import initial_weights
from trainer.folder.initial_weights import find
from trainer.folder.run_folder import Decision
from trainer.folder.source import find_source
from trainer.loop.session import open_session
from trainer.problems import ConfigError
from trainer.startup import Startup
from trainer.tokens.texts import Texts


def test_a_path_that_cannot_be_one_is_no_source(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 300)
    with pytest.raises(ConfigError, match=r"continue_from: (cannot be read: File|found no)"):
        find_source(path, ALONE)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_missing_initial_weights_are_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"checkpoint\.init_ckpt_path: found no checkpoint"):
        find(tmp_path / name)


def starting_from(init: Path, folder: Path) -> RunConfig:
    """Return the settings of a run in `folder`, of make_run's shape, that starts from `init`."""
    return run_config(folder, model=SHAPE, checkpoint={"init_ckpt_path": str(init)})


def test_a_run_does_not_start_from_its_own_folder(tmp_path: Path) -> None:
    """A new run moves its files aside; what it moved aside earlier stays where it is."""
    make_run(tmp_path / "run")
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "0000000001"):
        with pytest.raises(ConfigError, match="own folder"):
            initial_weights.choose(starting_from(path, tmp_path / "run"), ALONE)
    old = tmp_path / "run" / "superseded" / "1"
    old.mkdir(parents=True)
    (tmp_path / "run" / "checkpoints").rename(old / "checkpoints")
    shutil.move(tmp_path / "run" / "run.yaml", old)
    chosen = initial_weights.choose(starting_from(old, tmp_path / "run"), ALONE)
    assert chosen is not None
    assert chosen.path == old / "checkpoints" / "0000000002"


def test_a_path_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    """Python 3.14 says of such a path that it does not exist."""
    deep = tmp_path.joinpath(*["x" * 200] * 30)  # a path has 4,096 bytes at most
    reason = r"checkpoint\.init_ckpt_path: (cannot be read: File name|found no checkpoint)"
    with pytest.raises(ConfigError, match=reason):
        initial_weights.choose(starting_from(deep, tmp_path / "run"), ALONE)


def test_a_refused_run_leaves_an_earlier_one_where_it_is(tmp_path: Path, originals: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("those of an earlier run\n")
    config, unused = starting_from(originals / "lingua", tmp_path), cast(Any, None)
    text = Mock(key="text", training_key="text", tokenizer="bytes")
    texts = Texts({"text": text}, {})
    with pytest.raises(ConfigError, match=r"params\.json: [0-9] problems\n  model\.dim: found 64"):
        open_session(config, unused, Startup(), ALONE, texts, Decision("start"))
    assert (tmp_path / "metrics.jsonl").read_text() == "those of an earlier run\n"
    assert not (tmp_path / "superseded").exists()
