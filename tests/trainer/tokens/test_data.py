"""The windows of each batch, and the thread that reads them."""

import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.tokens.conftest import Make
from tests.waiting import PATIENCE_S
from trainer.config import DataConfig
from trainer.tokens import data
from trainer.tokens.data import BatchLoader, positions
from trainer.tokens.order import DataStart
from trainer.tokens.shard_folder import Shards


def loader(shards: Mapping[str, Shards], seq_len: int = 4, **changes: Any) -> BatchLoader:
    data = {"batch_size": 2, "prefetch_size": 2, "load_async": True}
    data["sources"] = dict.fromkeys(shards, 1.0)
    data |= {key: changes.pop(key) for key in list(changes) if key in data}
    config = DataConfig.model_validate({"root_dir": ".", "seq_len": seq_len, **data})
    return BatchLoader(shards, config, **{"seed": 1, "stop_step": 5, **changes})


@given(data=st.data())
def test_the_global_batch_does_not_depend_on_its_split(data: st.DataObject) -> None:
    total = data.draw(st.sampled_from([1, 6, 8, 24, 64]))
    world = data.draw(st.sampled_from([n for n in range(1, total + 1) if total % n == 0]))
    rest = total // world
    micro = data.draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0]))
    parts = [positions(micro, world, rank, rest // micro) for rank in range(world)]
    assert all(part.shape == (micro, rest // micro) for part in parts)
    assert sorted(np.concatenate(parts, axis=None).tolist()) == list(range(total))


@pytest.mark.parametrize(("world", "micro", "batch"), [(1, 1, 8), (2, 1, 4), (2, 2, 2), (4, 2, 1)])
def test_the_same_tokens_on_any_layout(
    make_shards: Make, world: int, micro: int, batch: int
) -> None:
    shards = {"a": make_shards(1000), "b": make_shards(500, first=5000)}

    def steps(world: int, micro: int, batch: int) -> list[Counter[tuple[int, ...]]]:
        seen: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(5)]
        for rank in range(world):
            layout = {"world": world, "rank": rank, "grad_acc_steps": micro, "batch_size": batch}
            with closing(loader(shards, **layout)) as batches:
                for step, tokens in enumerate(batches):
                    assert tokens.shape == (micro, batch, 5)
                    seen[step].update(map(tuple, tokens.reshape(-1, 5).tolist()))
        return seen

    assert steps(world, micro, batch) == steps(1, 1, 8)


@pytest.mark.parametrize(("rank", "first"), [(0, [[0, 1], [4, 5]]), (1, [[2, 3], [6, 7]])])
def test_samples_are_numbered_from_the_start(
    make_shards: Make, rank: int, first: list[list[int]]
) -> None:
    """In order of micro-batches, then ranks; those of a run that continues another go on there."""
    shards = {"a": make_shards(1000), "b": make_shards(500, first=5000)}
    layout = {"world": 2, "rank": rank, "grad_acc_steps": 2, "stop_step": 9}
    with closing(loader(shards, **layout)) as batches:
        for step, earlier in ((1, 0), (2, 8), (7, 48)):
            samples = batches.samples(step)
            assert (samples - earlier).tolist() == first
            chosen = batches.order.locate(samples.ravel())
            starts = chosen.start + np.where(chosen.source == 1, 5000, 0)
            (tokens,) = batches.read(step, step)
            assert tokens[..., 0].ravel().tolist() == starts.tolist()
    begin = DataStart(step=3, sample=100)
    with closing(loader(shards, **layout, start_step=3, begin=begin)) as batches:
        for step, earlier in ((4, 100), (5, 108), (9, 140)):
            assert (batches.samples(step) - earlier).tolist() == first
        assert batches.epoch(9) == batches.order.epoch(148)


def test_windows_are_neighbouring_tokens_of_their_source(make_shards: Make) -> None:
    shards = {"a": make_shards(1000), "b": make_shards(500, first=5000)}
    with closing(loader(shards, batch_size=64)) as batches:
        rows = np.concatenate([batch.reshape(-1, 5) for batch in batches])
    assert rows.dtype == np.uint16
    assert (np.diff(rows.astype(int)) == 1).all()
    assert (rows[:, 0] % 5000 % 4 == 0).all()
    assert 100 < (rows[:, 0] < 5000).sum() < 220


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5])
def test_starting_later_skips_steps(make_shards: Make, start: int) -> None:
    shards = {"a": make_shards(300)}
    with closing(loader(shards)) as all_steps, closing(loader(shards, start_step=start)) as rest:
        expected, found = [[batch.tolist() for batch in batches] for batches in (all_steps, rest)]
    assert len(expected) == 5
    assert found == expected[start:]


def test_more_steps_than_are_located_at_once(make_shards: Make) -> None:
    with closing(loader({"a": make_shards(300)}, stop_step=1500)) as batches:
        together = [batch.tolist() for batch in batches]
        assert len(together) == 1500
        for step in (1, 512, 513, 1500):
            assert [batch.tolist() for batch in batches.read(step, step)] == [together[step - 1]]
        assert batches.epoch(37) == 1.0  # 74 windows, 2 a step


def test_a_step_of_more_samples_than_are_located_at_once(
    make_shards: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = {"a": make_shards(300)}
    with closing(loader(shards)) as batches:
        expected = [batch.tolist() for batch in batches]
    monkeypatch.setattr(data, "LOCATED", 1)
    with closing(loader(shards)) as batches:
        assert [batch.tolist() for batch in batches] == expected


def test_windows_that_another_run_has_read_are_left_out(make_shards: Make) -> None:
    """Ten of a source, which are five steps: the first step goes on at the sixth."""
    shards = {"a": make_shards(300)}
    begin = DataStart(step=3, taken={"a": 10})
    with (
        closing(loader(shards, stop_step=10)) as fresh,
        closing(loader(shards, start_step=3, stop_step=8, begin=begin)) as later,
    ):
        expected = [batch.tolist() for batch in fresh.read(6, 10)]
        assert [batch.tolist() for batch in later] == expected


def test_the_loader_ends_once(make_shards: Make) -> None:
    with closing(loader({"a": make_shards(300)})) as batches:
        assert len(list(batches)) == 5
        assert list(batches) == []


@pytest.mark.parametrize("start", [0, 3, 5])
def test_without_a_thread_the_batches_are_the_same(make_shards: Make, start: int) -> None:
    shards = {"a": make_shards(300), "b": make_shards(500, first=5000)}
    with (
        closing(loader(shards, start_step=start)) as ahead,
        closing(loader(shards, start_step=start, load_async=False)) as asked,
    ):
        pairs = list(zip(ahead, asked, strict=True))
    assert len(pairs) == 5 - start
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_without_a_thread_batches_are_read_on_demand(
    make_shards: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[threading.Thread] = []
    gather = data.gather

    def counted(*where: Any) -> Any:
        readers.append(threading.current_thread())
        return gather(*where)

    monkeypatch.setattr(data, "gather", counted)
    with closing(loader({"a": make_shards(300)}, load_async=False)) as batches:
        assert readers == []
        next(batches)
        next(batches)
        assert readers == [threading.current_thread()] * 2
    assert list(batches) == []


@pytest.mark.parametrize("load_async", [True, False])
def test_a_read_error_reaches_the_consumer(
    make_shards: Make, monkeypatch: pytest.MonkeyPatch, load_async: bool
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(data, "gather", fail)
    with closing(loader({"a": make_shards(300)}, load_async=load_async)) as batches:
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                next(batches)


@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("prefetch", [1, 3, 100])
def test_close_ends_the_thread(make_shards: Make, taken: int, prefetch: int) -> None:
    batches = loader({"a": make_shards(300)}, prefetch_size=prefetch, stop_step=50)
    for _ in range(taken):
        next(batches)
    batches.close()
    batches.close()
    assert list(batches) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_reading_ahead_is_bounded(make_shards: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[int] = []
    gather, waiting = data.gather, threading.Event()

    def counted(*where: Any) -> Any:
        gathered.append(1)
        if len(gathered) == 4:  # three are queued, one waits for a slot
            waiting.set()
        return gather(*where)

    monkeypatch.setattr(data, "gather", counted)
    with closing(loader({"a": make_shards(300)}, prefetch_size=3, stop_step=50)):
        assert waiting.wait(PATIENCE_S)
        assert not threading.Event().wait(0.1)
        assert len(gathered) == 4
