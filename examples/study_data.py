"""The tokens of a cell for other trainers: the same ones, in the same order, as ours reads.

`TrainingTokens` and `HeldOutTokens` are datasets of windows of seq_len + 1 token ids.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainer.config import RunConfig, load_run_config
from trainer.tokens.order import SampleOrder
from trainer.tokens.texts import open_held_out, open_shards
from trainer.tokens.windows import training_windows, validation_windows


def load_settings(path: str) -> RunConfig:
    """Return a cell's settings.yaml."""
    return load_run_config([f"config={path}"])


class TrainingTokens(Dataset[Tensor]):
    """The samples of a run, in the order of training: read them in turn, without shuffling."""

    def __init__(self, settings: str, samples: int) -> None:
        """`samples`: those of all steps."""
        config = load_settings(settings)
        shards, data = open_shards(config.data), config.data
        tokens = {name: shard.train_tokens for name, shard in shards.items()}
        order = SampleOrder(tokens, data.sources, data.seq_len, config.order_seed)
        found = order.locate(range(samples))
        self._where = list(zip(found.source, found.start // data.seq_len, strict=True))
        self._windows = [training_windows(shards[name], data.seq_len) for name in order.sources]

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> Tensor:
        source, window = self._where[index]
        return _tensor(self._windows[source][window])


class HeldOutTokens(Dataset[Tensor]):
    """The windows on which the validation loss is computed; none without `eval`."""

    def __init__(self, settings: str) -> None:
        config = load_settings(settings)
        self._windows: Any = ()
        if config.eval is not None:
            held_out = open_held_out(config, open_shards(config.data))
            count = config.eval.validation.max_sequences
            self._windows = validation_windows(held_out, config.data.seq_len, count)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Tensor:
        return _tensor(self._windows[index])


def _tensor(window: Any) -> Tensor:
    return torch.from_numpy(window.astype("int64"))
