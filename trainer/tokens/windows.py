"""Windows of seq_len + 1 tokens, the samples to train on and to evaluate. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.tokens.order import Indices, count_windows
from trainer.tokens.shard_folder import Shards
from trainer.tokens.tokenizer import Tokens


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


def validation_windows(shards: Mapping[str, Shards], seq_len: int, count: int | None) -> Tokens:
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
    shards: Mapping[str, Shards], seq_len: int, count: int | None
) -> dict[str, int]:
    """Return source -> how many of the windows of `validation_windows` are its own."""
    names = sorted(shards)
    lengths = [count_windows(len(shards[name].val), seq_len) for name in names]
    source, _ = _take_turns(lengths, count)
    return dict(zip(names, np.bincount(source, minlength=len(names)).tolist(), strict=True))


def _take_turns(lengths: Sequence[int], count: int | None) -> tuple[Indices, Indices]:
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
