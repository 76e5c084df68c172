"""The mean context of packed documents: how many keys a token attends to. Imports no torch.

How many documents share a sequence, only the data say. So the trainer counts it when a run starts,
and writes it to run.json as `attention_context`, for FLOPs, MFU and roofline alike.
"""

from collections.abc import Mapping

import numpy as np

from trainer.flops import mean_context
from trainer.tokens.data import SampleOrder, training_windows
from trainer.tokens.shards import Shards
from trainer.tokens.tokenizer import Tokens

COUNTED_TOKENS = 2**22
"""Tokens of a run, from its beginning, that are counted: all of a short run, a sample of a long
one. They take 20 to 60 ms for sequences of 256 tokens or more. The sample of a long run errs by
0.3% at 2,048 tokens a sequence and 1.6% at 8,192 (standard deviation over seeds, for documents of
log-normal length, median 1,800 tokens, sigma 1.3); attention is a part of a step's FLOPs only."""


def first_inputs(order: SampleOrder, shards: Mapping[str, Shards], sequences: int) -> Tokens:
    """Return the inputs of the first sequences of a run, (sequences, seq_len).

    No more of them than hold `COUNTED_TOKENS`, but at least one. They follow from the order of the
    data alone: runs on other GPU counts, and resumed ones, begin with the same sequences.
    """
    count = min(sequences, max(1, COUNTED_TOKENS // order.seq_len))
    samples = order.locate(np.arange(count))
    windows = [training_windows(shards[name], order.seq_len) for name in order.sources]
    inputs = np.empty((count, order.seq_len), windows[0].dtype)
    places = zip(samples.source.tolist(), (samples.start // order.seq_len).tolist(), strict=True)
    for row, (source, number) in enumerate(places):
        inputs[row] = windows[source][number][:-1]
    return inputs


def documents_context(
    tokens_BT: Tokens, border: int, opens: bool, sliding_window: int | None = None
) -> float:
    """Return the mean number of keys that a token attends to within its own document.

    `tokens_BT` are token ids (sequences, seq_len), `border` the one that is the first token of each
    document (`opens`: BOS) or its last (EOS), as `DocumentBorder` has it. Each part of
    a document in a sequence counts as a sequence of its length does in `mean_context`, with the
    sliding window, if there is one.
    """
    at_border_BT = tokens_BT == border
    starts_BT = np.zeros_like(at_border_BT)
    starts_BT[:, 0] = True
    if opens:
        starts_BT |= at_border_BT
    else:
        starts_BT[:, 1:] |= at_border_BT[:, :-1]
    lengths = np.diff(np.flatnonzero(starts_BT), append=starts_BT.size)
    distinct, counts = np.unique(lengths, return_counts=True)
    pairs = sum(
        count * length * mean_context(length, sliding_window)
        for length, count in zip(distinct.tolist(), counts.tolist(), strict=True)
    )
    return pairs / tokens_BT.size
