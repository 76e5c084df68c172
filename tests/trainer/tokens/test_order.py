"""The order of samples as properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.tokens.order import (
    TABLE,
    SampleOrder,
    allocate,
    count_taken,
    count_windows,
    permute,
)

SEEDS = st.integers(0, 2**63)


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


def test_the_largest_remainders_are_rounded_up() -> None:
    """Of equal ones the first: 2 7/60 and 4 14/60 of 127, of which seven are left."""
    assert allocate([1.6, 1.3, 1.1], 4).tolist() == [2, 1, 1]
    assert allocate([1.0, 2.0] * 20, 127).tolist() == [2, 5] * 7 + [2, 4] * 13


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


@pytest.mark.parametrize(
    ("tokens", "windows"), [(0, 0), (1, 0), (4, 0), (5, 1), (8, 1), (9, 2), (12, 2), (13, 3)]
)
def test_windows_share_a_token_with_the_next(tokens: int, windows: int) -> None:
    """Of five tokens each, the last of which is the first of the next."""
    assert count_windows(tokens, 4) == windows


def test_windows_that_were_taken_are_not_read_again() -> None:
    """Twelve of a hundred: sample 0 is the one that was 12, and epochs go on from there."""
    fresh, later = (SampleOrder({"a": 401}, {"a": 1.0}, 4, 9, taken) for taken in (None, {"a": 12}))
    expected, found = fresh.locate(np.arange(12, 300)), later.locate(np.arange(288))
    assert found.start.tolist() == expected.start.tolist()
    assert found.epoch.tolist() == expected.epoch.tolist()
    assert (fresh.epoch(88), later.epoch(88)) == (0.88, 1.0)


@pytest.mark.parametrize("samples", [0, 1, 1000, 2 * TABLE + 77])
def test_taken_windows_are_counted_by_source(samples: int) -> None:
    weights = {"b": 1.0, "a": 3.0, "c": 1e-9}
    order = SampleOrder({"a": 401, "b": 4001, "c": 9}, weights, 4, 9)
    sources = order.locate(np.arange(samples)).source
    expected = {name: int((sources == index).sum()) for index, name in enumerate("abc")}
    assert count_taken(weights, 9, samples) == expected
