"""The corpus of a contender: consecutive windows of token ids, which its loader shuffles."""

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset


class Windows(Dataset):
    """Windows of seq_len + 1 token ids, int64, from the file `tokens` of a contender's settings."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.tokens = np.memmap(settings["tokens"], settings["tokens_dtype"], "r")
        self.seq_len = settings["seq_len"]

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.seq_len

    def __getitem__(self, index: int) -> torch.Tensor:
        start = index * self.seq_len
        return torch.from_numpy(self.tokens[start : start + self.seq_len + 1].astype(np.int64))
