"""The text of a contender: neighbouring windows of token ids, which its loader shuffles."""

import numpy as np
import torch
from torch.utils.data import Dataset


class Windows(Dataset):
    """Windows of seq_len + 1 token ids, int64, of a file of them."""

    def __init__(self, path: str, dtype: str, seq_len: int) -> None:
        self.tokens, self.seq_len = np.memmap(path, dtype, "r"), seq_len

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.seq_len

    def __getitem__(self, index: int) -> torch.Tensor:
        start = index * self.seq_len
        return torch.from_numpy(self.tokens[start : start + self.seq_len + 1].astype(np.int64))
