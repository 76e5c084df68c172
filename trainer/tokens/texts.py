"""The text of a run: the shards of every source, opened. Imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer.config import DataConfig, RunConfig
from trainer.problems import ConfigError, Problem
from trainer.tokens.packing import Encoding
from trainer.tokens.shard_folder import Shards
from trainer.tokens.shards import find_or_make
from trainer.tokens.text_files import HELD_OUT_FILES


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


def open_shards(data: DataConfig) -> dict[str, Shards]:
    """Return the shards of every source of a run, making those that are missing.

    Raises ConfigError if a source's text is unusable or shorter than one sequence.
    """
    shards = _open(data, data.sources)
    for source, shard in shards.items():
        if shard.train_tokens < data.seq_len + 1:
            raise ConfigError(
                str(Path(data.root_dir, source)),
                [
                    f"found {shard.train_tokens:,} tokens to train on; expected at least "
                    f"data.seq_len + 1 = {data.seq_len + 1:,}"
                ],
            )
    return shards


def open_held_out(config: RunConfig, shards: dict[str, Shards]) -> dict[str, Shards]:
    """Return the shards with a run's held-out text; `shards` are those that it trains on.

    Raises ConfigError if no source has a sequence of it.
    """
    wanted = sorted(config.held_out_sources)
    known = shards | _open(config.data, set(wanted) - shards.keys())
    held_out = {source: known[source] for source in wanted}
    if held_out:
        _check_held_out(config.data, held_out)
    return held_out


def _open(data: DataConfig, sources: Iterable[str]) -> dict[str, Shards]:
    """Return the shards of sources, making those that are missing; loads the tokenizer once."""
    encoding = Encoding(data.tokenizer, data.add_bos, data.add_eos)
    return {
        source: find_or_make(Path(data.root_dir), source, Path(data.shards_dir), encoding)
        for source in sorted(sources)
    }


def _check_held_out(data: DataConfig, shards: dict[str, Shards]) -> None:
    """Raise ConfigError if no source has a sequence of held-out text, for the validation loss."""
    found = max(shard.val_tokens for shard in shards.values())
    if found < data.seq_len + 1:
        folders = ", ".join(str(Path(data.root_dir, source)) for source in shards)
        expected = f"expected at least data.seq_len + 1 = {data.seq_len + 1:,} in one source"
        message = f"found {found:,} held-out tokens; {expected}: {HELD_OUT_FILES}, or eval: null"
        raise ConfigError(folders, [Problem(("eval",), message)])
