"""The order of samples as properties, and the thread that reads them."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import DataConfig
from trainer.tokens.data import (
    TABLE,
    BatchLoader,
    SampleOrder,
    allocate,
    count_validation_windows,
    permute,
    positions,
    validation_windows,
)
from trainer.tokens.shards import Part, Shards

SEEDS = st.integers(0, 2**63)
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


def loader(shards: Mapping[str, Shards], seq_len: int = 4, **changes: Any) -> BatchLoader:
    data = {"batch_size": 2, "prefetch_size": 2, "load_async": True}
    data["sources"] = dict.fromkeys(shards, 1.0)
    data |= {key: changes.pop(key) for key in list(changes) if key in data}
    config = DataConfig.model_validate({"root_dir": ".", "seq_len": seq_len, **data})
    return BatchLoader(shards, config, **{"seed": 1, "stop_step": 5, **changes})


@given(size=st.integers(1, 3000), key=SEEDS)
def test_permutation_is_a_bijection(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, np.uint64(key)).tolist()) == list(range(size))


@given(size=st.integers(2**31, 2**45), start=st.integers(0, 2**30), key=SEEDS)
def test_permutation_of_a_large_corpus_stays_in_range_without_repeats(
    size: int, start: int, key: int
) -> None:
    places = permute(np.arange(start, start + 500), size, np.uint64(key))
    assert len(set(places.tolist())) == 500
    assert places.min() >= 0 and places.max() < size


def test_permutations_look_random() -> None:
    """Where a position goes is uniform over keys, and neighbours do not stay together."""
    places = permute(3, 10, np.arange(20_000, dtype=np.uint64))
    counts = np.bincount(places, minlength=10)
    assert ((counts - 2000) ** 2 / 2000).sum() < 33.7  # chi-square, 9 degrees, p = 1e-4
    order = permute(np.arange(100_000), 100_000, np.uint64(5))
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 0.015  # nearly five standard deviations


@given(
    tokens=st.lists(st.integers(5, 400), min_size=1, max_size=3),
    seq_len=st.integers(1, 4),
    seed=SEEDS,
)
@settings(max_examples=40)
def test_every_window_once_in_each_epoch(tokens: list[int], seq_len: int, seed: int) -> None:
    sizes = {f"s{index}": size for index, size in enumerate(tokens)}
    order = SampleOrder(sizes, dict.fromkeys(sizes, 1.0), seq_len, seed)
    samples = order.locate(np.arange(6 * max(tokens)))
    for index, size in enumerate(tokens):
        windows = [start for start in range(0, size, seq_len) if start + seq_len < size]
        mine = samples.source == index
        for epoch in range(2):
            seen = samples.start[mine & (samples.epoch == epoch)]
            if (samples.epoch[mine] > epoch).any():
                assert sorted(seen.tolist()) == windows
        assert (np.diff(samples.epoch[mine]) >= 0).all()


def test_epochs_seeds_and_sources_have_different_orders() -> None:
    def starts(seed: int, epoch: int, source: str = "a") -> list[int]:
        order = SampleOrder({source: 1001}, {source: 1.0}, 1, seed)
        return order.locate(np.arange(1000) + 1000 * epoch).start.tolist()

    orders = [starts(1, 0), starts(1, 1), starts(2, 0), starts(2, 1), starts(1, 0, "b")]
    assert len({tuple(order) for order in orders}) == 5
    assert starts(1, 0) == starts(1, 0)


def test_the_order_does_not_change_between_versions() -> None:
    """A resumed run depends on it: a change of these numbers breaks every running study."""
    order = SampleOrder({"a": 10_001, "b": 501}, {"a": 3.0, "b": 1.0}, 10, 42)
    samples = order.locate(np.arange(8) + 3_000_000)
    assert samples.source.tolist() == [1, 0, 0, 0, 0, 0, 0, 1]
    assert samples.epoch.tolist() == [14998, 2250, 2250, 2250, 2250, 2250, 2250, 14998]
    assert samples.start.tolist() == [100, 3100, 6000, 670, 7780, 1460, 3560, 70]


def test_each_index_is_located_independently() -> None:
    order = SampleOrder({"a": 1001, "b": 99}, {"a": 1.0, "b": 2.0}, 7, 3)
    together = order.locate(np.arange(300).reshape(3, 100))
    for index in (0, 17, 123, 299):
        alone = order.locate(index)
        row, column = divmod(index, 100)
        assert alone.source[0] == together.source[row, column]
        assert alone.start[0] == together.start[row, column]


@given(st.lists(st.floats(1e-9, 1e6), min_size=1, max_size=40))
def test_shares_follow_the_weights(weights: list[float]) -> None:
    shares = allocate(weights, TABLE)
    assert shares.sum() == TABLE and shares.min() >= 1
    exact = np.array(weights) / sum(weights) * TABLE
    below_one = int((exact < 1).sum())
    assert (np.abs(shares - exact) <= 1 + below_one).all()


def test_weights_hold_from_the_beginning() -> None:
    order = SampleOrder({"a": 100, "b": 10_000}, {"a": 3.0, "b": 1.0}, 4, 9)
    sources = order.locate(np.arange(2 * TABLE)).source
    assert (sources == 0).sum() == 2 * TABLE * 3 // 4
    parts = sources.reshape(-1, 1024).mean(axis=1)  # no stretch with only one of them
    assert abs(parts - 0.25).max() < 0.08


def test_the_order_of_the_keys_does_not_matter() -> None:
    first = SampleOrder({"a": 99, "b": 200}, {"a": 1.0, "b": 2.0}, 4, 9)
    second = SampleOrder({"b": 200, "a": 99}, {"b": 20.0, "a": 10.0}, 4, 9)
    index = np.arange(1000)
    assert (first.locate(index).start == second.locate(index).start).all()


def test_epochs_are_counted_of_the_source_repeated_most() -> None:
    order = SampleOrder({"a": 401, "b": 4001}, {"a": 1.0, "b": 1.0}, 4, 9)
    assert order.epoch(0) == 0
    assert order.epoch(TABLE) == TABLE / 2 / 100
    for index in (150, 1000, TABLE + 77):
        seen = (order.locate(np.arange(index)).source == 0).sum()
        assert order.epoch(index) == seen / 100


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
    gather = BatchLoader._gather

    def counted(self: BatchLoader, *where: Any) -> Any:
        readers.append(threading.current_thread())
        return gather(self, *where)

    monkeypatch.setattr(BatchLoader, "_gather", counted)
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

    monkeypatch.setattr(BatchLoader, "_gather", fail)
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
    gather, waiting = BatchLoader._gather, threading.Event()

    def counted(self: BatchLoader, *where: Any) -> Any:
        gathered.append(1)
        if len(gathered) == 4:  # three are queued, one waits for a slot
            waiting.set()
        return gather(self, *where)

    monkeypatch.setattr(BatchLoader, "_gather", counted)
    with closing(loader({"a": make_shards(300)}, prefetch_size=3, stop_step=50)):
        assert waiting.wait(10)
        assert not threading.Event().wait(0.1)
        assert len(gathered) == 4


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
