"""The sampling order: which window of which source each sample is.

A sample is a pure function of (seed, global step, position in the global batch), so a run resumes
at any step, on any number of GPUs, with exactly the samples that it would have read. Imports no
torch.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices = NDArray[np.int64]
Words = NDArray[np.uint64]

TABLE = 65536
"""Samples after which the pattern of sources repeats; the resolution of the weights."""
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
