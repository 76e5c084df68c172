"""The order of samples, and the thread that reads them ahead of the steps that use them.

Which sample stands where is a pure function of (seed, global step, position in the global batch):
nothing is remembered from step to step, so a run resumes at any step, on any number of GPUs, with
exactly the samples that it would have read. Imports no torch.
"""

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainer.config import DataConfig
from trainer.tokens.shards import Shards
from trainer.tokens.tokenizer import Tokens

Indices = NDArray[np.int64]
Words = NDArray[np.uint64]

TABLE = 65536
"""Samples after which the pattern of sources repeats; weights are met to one part in this many."""
LOCATED = 1024
"""Samples that the loader locates in one go, so that numpy's cost of a call is shared."""
GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, the increment of SplitMix64: multiples of it are far apart."""
ROUND_KEYS = [np.uint64(number * GOLDEN % 2**64) for number in range(6)]
"""One for each Feistel round; four rounds already pass for random, more help tiny domains."""


@dataclass(frozen=True)
class Samples:
    """Where samples stand: arrays of one shape."""

    source: Indices
    """Index into the sorted names of the sources."""
    epoch: Indices
    """Passes over that source before this one."""
    start: Indices
    """First token of the window; the window has seq_len + 1 tokens."""


class SampleOrder:
    """The endless sequence of training samples.

    Sample i is a window of seq_len + 1 tokens of one source; neighbouring windows share the one
    token that is the last target of the first. Sources take turns in a shuffled pattern of TABLE
    samples that holds each as often as its weight says. Within a source each epoch is a permutation
    of all its windows.
    """

    def __init__(
        self, tokens: Mapping[str, int], weights: Mapping[str, float], seq_len: int, seed: int
    ) -> None:
        """`tokens` and `weights` of each source; each source has at least one window of tokens."""
        self.sources = sorted(tokens)
        self.seq_len = seq_len
        self.windows = np.array([count_windows(tokens[name], seq_len) for name in self.sources])
        assert self.windows.min() > 0, "a source is shorter than one sequence"
        self._keys = np.array([_hash_name(seed, name) for name in self.sources], np.uint64)
        shares = allocate([weights[name] for name in self.sources], TABLE)
        sorted_table = np.repeat(np.arange(len(shares)), shares)
        shuffle = permute(np.arange(TABLE), TABLE, np.uint64(_hash_name(seed, "")))
        self._table = sorted_table[shuffle]
        self._shares = shares
        self._earlier = np.empty(TABLE, np.int64)  # entries of the same source before this one
        entries = [np.flatnonzero(self._table == source) for source in range(len(shares))]
        for places in entries:
            self._earlier[places] = np.arange(len(places))
        # Of each source, for `epoch`; numbers of Python, as numpy's take longer one by one.
        self._sources = list(zip(entries, shares.tolist(), self.windows.tolist(), strict=True))

    def locate(self, index: ArrayLike) -> Samples:
        """Return where the samples of global indices (an array) stand; O(1) for each."""
        index = np.atleast_1d(np.asarray(index, np.int64))
        entry = index % TABLE
        source = self._table[entry]
        number = index // TABLE * self._shares[source] + self._earlier[entry]
        windows = self.windows[source]
        epoch = number // windows
        key = _mix(self._keys[source] + epoch.astype(np.uint64) * np.uint64(GOLDEN))
        return Samples(source, epoch, permute(number % windows, windows, key) * self.seq_len)

    def epoch(self, index: int) -> float:
        """Return the passes that the first `index` samples make over the source repeated most."""
        whole, rest = divmod(index, TABLE)
        return max(
            (whole * share + int(entries.searchsorted(rest))) / windows
            for entries, share, windows in self._sources
        )


def count_windows(tokens: int, seq_len: int) -> int:
    """Return how many windows of seq_len + 1 tokens start at multiples of seq_len."""
    return max(0, (tokens - 1) // seq_len)


def allocate(weights: ArrayLike, total: int) -> Indices:
    """Divide `total` in proportion to weights by largest remainder; nobody is left with nothing."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * total
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: total - shares.sum()]] += 1
    shares = np.maximum(shares, 1)
    shares[shares.argmax()] -= shares.sum() - total
    return shares


def permute(position: ArrayLike, size: ArrayLike, key: ArrayLike) -> Indices:
    """Return the places of positions 0..size-1 under a pseudo-random permutation for each key.

    The arguments are broadcast. A Feistel network with addition for xor permutes the pairs
    (left, right) of a grid that is just large enough; a place outside 0..size-1 is permuted again
    until it falls inside (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite
    Domains", 2002).
    """
    position, size, key = np.broadcast_arrays(
        np.atleast_1d(np.asarray(position, np.uint64)),
        np.asarray(size, np.uint64),
        np.asarray(key, np.uint64),
    )
    rows = np.ceil(np.sqrt(size)).astype(np.uint64)
    columns = (size + rows - np.uint64(1)) // rows
    place = _encipher(position, rows, columns, key)
    while (outside := place >= size).any():
        place[outside] = _encipher(place[outside], rows[outside], columns[outside], key[outside])
    return place.astype(np.int64)


def _encipher(position: Words, rows: Words, columns: Words, key: Words) -> Words:
    """Permute 0..rows*columns-1: each half in turn is shifted by a hash of the other."""
    left, right = position // columns, position % columns
    for even, odd in zip(ROUND_KEYS[::2], ROUND_KEYS[1::2], strict=True):
        left = (left + _mix(right + key + even)) % rows
        right = (right + _mix(left + key + odd)) % columns
    return left * columns + right


def _mix(words: Words) -> Words:
    """Return a hash of 64-bit words: the finaliser of SplitMix64 (Steele and others, 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _hash_name(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


class BatchLoader(Iterator[Any]):
    """The batches of one rank, step by step, read by one background thread ahead of their use.

    Yields token ids (grad_acc_steps, batch_size, seq_len + 1) for the steps start_step + 1 to
    stop_step, counted from 1; [..., :-1] are the inputs and [..., 1:] the targets. An error of the
    thread is raised in the consumer. With load_async: false there is no thread: each batch is read
    when it is asked for. End with close().
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
        prepare: Callable[[Tokens], Any] = lambda batch: batch,
    ) -> None:
        """`start_step` steps are done already, of `stop_step` in all.

        `prepare` makes of a batch what is yielded, in the thread.
        """
        tokens = {name: shard.train_tokens for name, shard in shards.items()}
        self.order = SampleOrder(tokens, data.sources, data.seq_len, seed)
        self.global_batch = data.batch_size * grad_acc_steps * world
        self._positions = positions(grad_acc_steps, world, rank, data.batch_size)
        self._windows = [
            training_windows(shards[name], data.seq_len) for name in self.order.sources
        ]
        self._in_order = map(prepare, self._read_all(start_step + 1, stop_step))
        # A place is a leave to put one batch. Two simple queues hand over twice as fast as
        # one bounded queue, and close() has nobody to unblock but a thread that waits for a place.
        self._batches: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(min(data.prefetch_size, stop_step)):
            self._places.put(None)
        self._closed = False
        self._ended: BaseException | None = None
        self._thread: threading.Thread | None = None
        if data.load_async:
            self._thread = threading.Thread(target=self._read_ahead, name="batches", daemon=True)
            self._thread.start()

    def samples(self, step: int) -> Indices:
        """Return the global indices of this rank's samples in a step, (grad_acc_steps, batch_size).

        Over all ranks they are the same set however the global batch is split.
        """
        return (step - 1) * self.global_batch + self._positions

    def read(self, first: int, last: int) -> Iterator[Tokens]:
        """Yield this rank's batches of the steps first to last."""
        samples = self.order.locate(np.array([self.samples(n) for n in range(first, last + 1)]))
        for source, start in zip(samples.source, samples.start, strict=True):
            yield self._gather(source, start // self.order.seq_len)

    def epoch(self, step: int) -> float:
        """Return the passes made over the source repeated most, by the end of a step."""
        return self.order.epoch(step * self.global_batch)

    def __next__(self) -> Any:
        if self._ended is None:
            item = self._read_now() if self._thread is None else self._take()
            if not isinstance(item, BaseException):
                return item
            self._ended = item
        raise self._ended

    def _gather(self, source: Indices, window: Indices) -> Tokens:
        """Return the tokens of windows, each of its source; one more axis than the arguments."""
        rows = np.empty((window.size, self.order.seq_len + 1), self._windows[0].dtype)
        where = zip(source.ravel().tolist(), window.ravel().tolist(), strict=True)
        for row, (index, number) in enumerate(where):
            rows[row] = self._windows[index][number]
        return rows.reshape(*window.shape, -1)

    def close(self) -> None:
        """Stop the thread and wait for its end; no batch comes after this."""
        self._closed = True
        self._ended = self._ended or StopIteration()
        self._places.put(None)
        if self._thread is not None:
            self._thread.join()

    def _read_all(self, first: int, last: int) -> Iterator[Tokens]:
        steps = max(1, LOCATED // self._positions.size)
        for step in range(first, last + 1, steps):
            yield from self.read(step, min(step + steps - 1, last))

    def _take(self) -> Any:
        item = self._batches.get()
        self._places.put(None)
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
                self._places.get()
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


def training_windows(shards: Shards, seq_len: int) -> Tokens:
    """Return a view (windows, seq_len + 1) of the training tokens; indexing it reads them."""
    return _windows(shards.train, seq_len)


def validation_windows(
    shards: Mapping[str, Shards], seq_len: int, count: int | None = None
) -> Tokens:
    """Return the first `count` windows of held-out tokens, (windows, seq_len + 1); None: all.

    Sources in the order of their names give a window each in turn, each from its beginning; one
    that has no more is passed over. So they are the same for every seed and GPU count.
    """
    held_out = [_windows(shards[name].val, seq_len) for name in sorted(shards)]
    lengths = [len(windows) for windows in held_out]
    turn = np.concatenate([np.arange(length) for length in lengths])
    source = np.repeat(np.arange(len(lengths)), lengths)
    chosen = np.lexsort((source, turn))[:count]
    batch = np.empty((len(chosen), seq_len + 1), held_out[0].dtype)
    for index, windows in enumerate(held_out):
        here = source[chosen] == index
        batch[here] = windows[turn[chosen][here]]
    return batch


def _windows(tokens: Tokens, seq_len: int) -> Tokens:
    count = count_windows(len(tokens), seq_len)
    if count == 0:
        return np.empty((0, seq_len + 1), tokens.dtype)
    view: Any = np.lib.stride_tricks.sliding_window_view(tokens, seq_len + 1)
    return np.asarray(view[::seq_len])
