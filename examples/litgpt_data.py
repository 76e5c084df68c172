"""The tokens of a cell as a data module of litgpt; config/trainers/litgpt.yaml names it."""

from dataclasses import dataclass
from typing import Any

from litgpt.data import DataModule
from torch.utils.data import DataLoader

from examples.study_data import HeldOutTokens, TrainingTokens


@dataclass
class StudyTokens(DataModule):
    """The same tokens as ours reads, in the same order."""

    settings: str
    """The cell's settings.yaml."""
    samples: int
    """Samples of all steps."""

    def __post_init__(self) -> None:
        super().__init__()

    def connect(
        self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None
    ) -> None:
        """Take the micro-batch; the settings name the rest."""
        self._batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the samples in the order of training."""
        tokens = TrainingTokens(self.settings, self.samples)
        return DataLoader(tokens, batch_size=self._batch_size, shuffle=False)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the held-out windows."""
        return DataLoader(HeldOutTokens(self.settings), batch_size=self._batch_size)
