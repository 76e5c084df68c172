"""The mean context of packed documents: how many keys a token attends to. Imports no torch.

It depends on how many documents share a sequence, so the trainer counts it in the data when a run
starts and writes it to run.json as `attention_context`, for FLOPs, MFU and roofline.
"""

from collections.abc import Mapping

import numpy as np

from trainer.flops import mean_context
from trainer.tokens.order import SampleOrder
from trainer.tokens.shard_folder import Shards
from trainer.tokens.tokenizer import Tokens
from trainer.tokens.windows import gather, training_windows

COUNTED_TOKENS = 2**22
"""Tokens counted, from the beginning of a run: all of a short run, a sample of a long one. This
takes 20 to 60 ms for sequences of 256 tokens or more. The sample's error is 0.3% at 2,048 tokens
per sequence and 1.6% at 8,192 (standard deviation over seeds, for documents of log-normal length,
median 1,800 tokens, sigma 1.3); attention is only a part of a step's FLOPs."""


def first_inputs(order: SampleOrder, shards: Mapping[str, Shards], sequences: int) -> Tokens:
    """Return the inputs of the first sequences of a run, (sequences, seq_len).

    At most `COUNTED_TOKENS`, but at least one sequence. They follow from the sampling order alone,
    so they are the same on any number of GPUs and in resumed runs.
    """
    count = min(sequences, max(1, COUNTED_TOKENS // order.seq_len))
    samples = order.locate(np.arange(count))
    windows = [training_windows(shards[name], order.seq_len) for name in order.sources]
    return gather(windows, samples.source, samples.start // order.seq_len)[:, :-1]


def documents_context(
    tokens_BT: Tokens, border: int, opens: bool, sliding_window: int | None = None
) -> float:
    """Return the mean number of keys that a token attends to within its own document.

    `tokens_BT` are token ids (sequences, seq_len). `border` is the first token of each document
    (`opens`: BOS) or its last (EOS), as in `DocumentBorder`. The part of a document in a sequence
    counts like a sequence of its length in `mean_context`, with the sliding window if there is one.
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
