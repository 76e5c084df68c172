"""The text of a run: the shards of every source, opened. Imports no torch."""

from dataclasses import dataclass

from trainer.config import RunConfig
from trainer.tokens.shards import Shards, open_held_out, open_shards


@dataclass(frozen=True)
class Texts:
    """The text that a run trains on, and the one that it is evaluated on."""

    training: dict[str, Shards]
    """Source -> the text to train on."""
    held_out: dict[str, Shards]
    """Source -> the held-out text."""

    @property
    def content(self) -> dict[str, str]:
        """Source -> key of its content, for all sources."""
        return {source: shard.key for source, shard in (self.training | self.held_out).items()}

    @property
    def training_content(self) -> dict[str, str]:
        """Source -> key of the text to train on; changed text makes a different run."""
        shards = self.training.items()
        return {source: shard.training_key or shard.key for source, shard in shards}

    @property
    def tokenizer(self) -> str:
        """Fingerprint of the tokenizer, which all sources share."""
        return next(iter(self.training.values())).tokenizer


def open_texts(config: RunConfig) -> Texts:
    """Return the text of a run, making the shards that are missing. Raises ConfigError."""
    training = open_shards(config.data)
    return Texts(training, open_held_out(config, training))
