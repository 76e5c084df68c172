"""The data loader. Imports no torch.

The loader has no state: what it reads follows from the sampling order, see order.py.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from trainer.config import DataConfig
from trainer.tokens.order import AT_ITS_BEGINNING, DataStart, Indices, SampleOrder
from trainer.tokens.shard_folder import Shards
from trainer.tokens.tokenizer import Tokens
from trainer.tokens.windows import gather, training_windows

LOCATED = 1024
"""Samples that the loader locates in one go, to amortise numpy's cost per call."""


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
            yield gather(self._windows, source, start // self.order.seq_len)

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
