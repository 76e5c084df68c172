"""The sampling order, and the data loader.

A sample is a pure function of (seed, global step, position in the global batch). The loader has no
state, so a run resumes at any step, on any number of GPUs, with exactly the samples that it would
have read. Imports no torch.
"""

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainer.config import DataConfig
from trainer.tokens.shards import Shards
from trainer.tokens.tokenizer import Tokens

Indices = NDArray[np.int64]
Words = NDArray[np.uint64]

TABLE = 65536
"""Samples after which the pattern of sources repeats; the resolution of the weights."""
LOCATED = 1024
"""Samples that the loader locates in one go, to amortise numpy's cost per call."""
GOLDEN = 0x9E3779B97F4A7C15
"""2^64 / golden ratio, the increment of SplitMix64: its multiples are far apart."""
ROUND_KEYS = [np.uint64(number * GOLDEN % 2**64) for number in range(6)]
"""Keys of the Feistel rounds: four rounds look random already, more help tiny domains."""


@dataclass(frozen=True)
class Samples:
    """Locations of samples: arrays of the same shape."""

    source: Indices
    """Index into the sorted names of the sources."""
    epoch: Indices
    """Earlier epochs of that source."""
    start: Indices
    """First token of the window; the window has seq_len + 1 tokens."""


@dataclass(frozen=True)
class DataStart:
    """Where a run begins to read: behind what an earlier run has read, if it continues one."""

    step: int = 0
    """Optimizer steps before it."""
    sample: int = 0
    """Index of the first sample, in the order of the run's sources and weights."""
    tokens: int = 0
    """Tokens trained on before it."""
    taken: Mapping[str, int] = field(default_factory=dict)
    """Source -> windows that were read before sample 0, by a run with other sources or weights."""


AT_ITS_BEGINNING = DataStart()
"""Of a run that continues no other."""


class SampleOrder:
    """The endless sequence of training samples.

    Sample i is a window of seq_len + 1 tokens of one source; the last token of a window is the
    first of the next. Sources alternate in a shuffled pattern of TABLE samples, in proportion to
    their weights. Each epoch of a source is a permutation of all its windows.
    """

    def __init__(
        self,
        tokens: Mapping[str, int],
        weights: Mapping[str, float],
        seq_len: int,
        seed: int,
        taken: Mapping[str, int] | None = None,
    ) -> None:
        """`tokens` and `weights` are per source; each source needs at least one window.

        `taken`: source -> windows at its beginning that are left out; see `DataStart`.
        """
        self.sources = sorted(tokens)
        self.seq_len = seq_len
        self.windows = np.array([count_windows(tokens[name], seq_len) for name in self.sources])
        assert self.windows.min() > 0, "a source is shorter than one sequence"
        self._keys = np.array([_hash_name(seed, name) for name in self.sources], np.uint64)
        shares, self._table = _pattern([weights[name] for name in self.sources], seed)
        self._shares = shares
        self._taken = np.array([(taken or {}).get(name, 0) for name in self.sources], np.int64)
        self._earlier = np.empty(TABLE, np.int64)  # entries of the same source before this one
        entries = [np.flatnonzero(self._table == source) for source in range(len(shares))]
        for indices in entries:
            self._earlier[indices] = np.arange(len(indices))
        # Per source, for `epoch`; Python numbers, since numpy scalars are slower.
        lists = (shares.tolist(), self.windows.tolist(), self._taken.tolist())
        self._sources = list(zip(entries, *lists, strict=True))

    def locate(self, index: ArrayLike) -> Samples:
        """Return the locations of the samples at global indices (an array); O(1) per sample."""
        index = np.atleast_1d(np.asarray(index, np.int64))
        entry = index % TABLE
        source = self._table[entry]
        number = index // TABLE * self._shares[source] + self._earlier[entry] + self._taken[source]
        windows = self.windows[source]
        epoch = number // windows
        key = _mix(self._keys[source] + epoch.astype(np.uint64) * np.uint64(GOLDEN))
        return Samples(source, epoch, permute(number % windows, windows, key) * self.seq_len)

    def epoch(self, index: int) -> float:
        """Return the epochs that the first `index` samples cover of the source repeated most."""
        whole, rest = divmod(index, TABLE)
        return max(
            (taken + whole * share + int(entries.searchsorted(rest))) / windows
            for entries, share, windows, taken in self._sources
        )


def count_taken(weights: Mapping[str, float], seed: int, samples: int) -> dict[str, int]:
    """Return source -> its windows among the first `samples` of a `SampleOrder`."""
    names = sorted(weights)
    shares, table = _pattern([weights[name] for name in names], seed)
    whole, rest = divmod(samples, TABLE)
    counts = whole * shares + np.bincount(table[:rest], minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def _pattern(weights: Sequence[float], seed: int) -> tuple[Indices, Indices]:
    """Return each source's entries of the table, (sources,), and the table, (TABLE,)."""
    shares = allocate(weights, TABLE)
    sorted_table = np.repeat(np.arange(len(shares)), shares)
    return shares, sorted_table[permute(np.arange(TABLE), TABLE, np.uint64(_hash_name(seed, "")))]


def count_windows(tokens: int, seq_len: int) -> int:
    """Return how many windows of seq_len + 1 tokens start at multiples of seq_len."""
    return max(0, (tokens - 1) // seq_len)


def allocate(weights: ArrayLike, total: int) -> Indices:
    """Divide `total` in proportion to weights by largest remainder; each share is at least 1."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * total
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: total - shares.sum()]] += 1
    shares = np.maximum(shares, 1)
    shares[shares.argmax()] -= shares.sum() - total
    return shares


def permute(position: ArrayLike, size: ArrayLike, key: ArrayLike) -> Indices:
    """Return the images of positions 0..size-1 under a pseudo-random permutation per key.

    The arguments are broadcast. A Feistel network with addition instead of xor permutes the pairs
    (left, right) of a grid that is just large enough; a result outside 0..size-1 is permuted again
    until it is inside (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
    2002).
    """
    position, size, key = np.broadcast_arrays(
        np.atleast_1d(np.asarray(position, np.uint64)),
        np.asarray(size, np.uint64),
        np.asarray(key, np.uint64),
    )
    rows = np.ceil(np.sqrt(size)).astype(np.uint64)
    columns = (size + rows - np.uint64(1)) // rows
    image = _encipher(position, rows, columns, key)
    while (outside := image >= size).any():
        image[outside] = _encipher(image[outside], rows[outside], columns[outside], key[outside])
    return image.astype(np.int64)


def _encipher(position: Words, rows: Words, columns: Words, key: Words) -> Words:
    """Permute 0..rows*columns-1: alternately shift each half by a hash of the other."""
    left, right = position // columns, position % columns
    for even, odd in zip(ROUND_KEYS[::2], ROUND_KEYS[1::2], strict=True):
        left = (left + _mix(right + key + even)) % rows
        right = (right + _mix(left + key + odd)) % columns
    return left * columns + right


def _mix(words: Words) -> Words:
    """Return a hash of 64-bit words: the finaliser of SplitMix64 (Steele et al. 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _hash_name(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


class BatchLoader(Iterator[Any]):
    """The batches of one rank, step by step, read ahead by a background thread.

    Yields token ids (grad_acc_steps, batch_size, seq_len + 1) for the steps start_step + 1 to
    stop_step, counted from 1; [..., :-1] are the inputs and [..., 1:] the targets. Errors of the
    thread are raised in the consumer. With load_async: false there is no thread, and each batch is
    read on demand. Call close() at the end.
    """

    def __init__(
        self,
        shards: Mapping[str, Shards],
        data: DataConfig,
        *,
        seed: int,
        grad_acc_steps: int = 1,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        stop_step: int,
        begin: DataStart = AT_ITS_BEGINNING,
        prepare: Callable[[Tokens], Any] = lambda batch: batch,
    ) -> None:
        """`start_step` of `stop_step` steps are already done; `begin` says what the first reads.

        `prepare` is applied to each batch in the thread.
        """
        tokens = {name: shard.train_tokens for name, shard in shards.items()}
        self.order = SampleOrder(tokens, data.sources, data.seq_len, seed, begin.taken)
        self._begin = begin
        self.global_batch = data.batch_size * grad_acc_steps * world
        self._positions = positions(grad_acc_steps, world, rank, data.batch_size)
        self._windows = [
            training_windows(shards[name], data.seq_len) for name in self.order.sources
        ]
        self._in_order = map(prepare, self._read_all(start_step + 1, stop_step))
        # The thread takes a free slot for each batch that it puts. Two simple queues are twice as
        # fast as one bounded queue, and close() can unblock the thread by adding a slot.
        self._batches: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._slots: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(min(data.prefetch_size, stop_step)):
            self._slots.put(None)
        self._closed = False
        self._ended: BaseException | None = None
        self._thread: threading.Thread | None = None
        if data.load_async:
            self._thread = threading.Thread(target=self._read_ahead, name="batches", daemon=True)
            self._thread.start()

    def samples(self, step: int) -> Indices:
        """Return the global indices of this rank's samples in a step, (grad_acc_steps, batch_size).

        Over all ranks, the set does not depend on how the global batch is split.
        """
        return self._samples_before(step) + self._positions

    def _samples_before(self, step: int) -> int:
        return self._begin.sample + (step - 1 - self._begin.step) * self.global_batch

    def read(self, first: int, last: int) -> Iterator[Tokens]:
        """Yield this rank's batches of the steps `first` to `last`."""
        samples = self.order.locate(np.array([self.samples(n) for n in range(first, last + 1)]))
        for source, start in zip(samples.source, samples.start, strict=True):
            yield self._gather(source, start // self.order.seq_len)

    def epoch(self, step: int) -> float:
        """Return the epochs of the source repeated most, by the end of a step."""
        return self.order.epoch(self._samples_before(step + 1))

    def __next__(self) -> Any:
        if self._ended is None:
            item = self._read_now() if self._thread is None else self._take()
            if not isinstance(item, BaseException):
                return item
            self._ended = item
        raise self._ended

    def _gather(self, source: Indices, window: Indices) -> Tokens:
        return gather(self._windows, source, window)

    def close(self) -> None:
        """Stop the thread and wait for its end; no batch is yielded after this."""
        self._closed = True
        self._ended = self._ended or StopIteration()
        self._slots.put(None)
        if self._thread is not None:
            self._thread.join()

    def _read_all(self, first: int, last: int) -> Iterator[Tokens]:
        steps = max(1, LOCATED // self._positions.size)
        for step in range(first, last + 1, steps):
            yield from self.read(step, min(step + steps - 1, last))

    def _take(self) -> Any:
        item = self._batches.get()
        self._slots.put(None)
        return item

    def _read_now(self) -> Any:
        try:
            return next(self._in_order)
        except BaseException as error:
            return error

    def _read_ahead(self) -> None:
        """Fill the queue until the last step, an error or close()."""
        try:
            for batch in self._in_order:
                self._slots.get()
                if self._closed:
                    return
                self._batches.put(batch)
            raise StopIteration
        except BaseException as error:
            self._batches.put(error)


def positions(grad_acc_steps: int, world: int, rank: int, batch_size: int) -> Indices:
    """Return a rank's positions in the global batch, (grad_acc_steps, batch_size)."""
    micro = np.arange(grad_acc_steps)[:, None]
    return (micro * world + rank) * batch_size + np.arange(batch_size)


def gather(windows: Sequence[Tokens], source: Indices, window: Indices) -> Tokens:
    """Return the tokens of windows of sources, with one more axis than the indices.

    `windows` are those of `training_windows`, per source.
    """
    rows = np.empty((window.size, windows[0].shape[1]), windows[0].dtype)
    pairs = zip(source.ravel().tolist(), window.ravel().tolist(), strict=True)
    for row, (index, number) in enumerate(pairs):
        rows[row] = windows[index][number]
    return rows.reshape(*window.shape, -1)


def training_windows(shards: Shards, seq_len: int) -> Tokens:
    """Return a view (windows, seq_len + 1) of the memory-mapped training tokens."""
    return _windows(shards.train, seq_len)


def validation_windows(
    shards: Mapping[str, Shards], seq_len: int, count: int | None = None
) -> Tokens:
    """Return the first `count` windows of held-out tokens, (windows, seq_len + 1); None: all.

    Sources alternate, in the order of their names, each from its beginning; exhausted ones are
    skipped. So the windows are the same for every seed and GPU count.
    """
    held_out = [_windows(shards[name].val, seq_len) for name in sorted(shards)]
    source, window = _take_turns([len(windows) for windows in held_out], count)
    batch = np.empty((len(source), seq_len + 1), held_out[0].dtype)
    for index, windows in enumerate(held_out):
        here = source == index
        batch[here] = windows[window[here]]
    return batch


def count_validation_windows(
    shards: Mapping[str, Shards], seq_len: int, count: int | None = None
) -> dict[str, int]:
    """Return source -> how many of the windows of `validation_windows` are its own."""
    names = sorted(shards)
    lengths = [count_windows(len(shards[name].val), seq_len) for name in names]
    source, _ = _take_turns(lengths, count)
    return dict(zip(names, np.bincount(source, minlength=len(names)).tolist(), strict=True))


def _take_turns(
    lengths: Sequence[int], count: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first `count` turns of sources with that many windows: source and window."""
    window = np.concatenate([np.arange(length) for length in lengths])
    source = np.repeat(np.arange(len(lengths)), lengths)
    chosen = np.lexsort((source, window))[:count]
    return source[chosen], window[chosen]


def _windows(tokens: Tokens, seq_len: int) -> Tokens:
    count = count_windows(len(tokens), seq_len)
    if count == 0:
        return np.empty((0, seq_len + 1), tokens.dtype)
    view: Any = np.lib.stride_tricks.sliding_window_view(tokens, seq_len + 1)
    return np.asarray(view[::seq_len])
