"""The training data and the shape of its batches: `data` of a run.yaml."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from trainer import lingua, other_names
from trainer.paths import FilePath
from trainer.problems import RuleError
from trainer.settings import IsNumber, LeftOut, Settings, Text

BYTE_VOCABULARY = 258  # 256 bytes, BOS 256, EOS 257

TokenizerName = Literal["bytes", "hf", "tiktoken", "sp", "cl100k_base", "o200k_base", "gpt2"]

Weight = Annotated[NonNegativeFloat, IsNumber]

HOW_DATA_IS_READ: Any = {
    **dict.fromkeys(("root_dir", "shards_dir", "batch_size", "prefetch_size", "load_async"), True),
    "tokenizer": {"path"},
}
"""Settings of the data that do not change the sequence of samples."""


class TokenizerConfig(Settings):
    """How text becomes token ids."""

    other_names: ClassVar[Mapping[str, str]] = other_names.TOKENIZER

    name: TokenizerName = "bytes"
    """bytes: the UTF-8 bytes, BOS 256, EOS 257; hf: a tokenizer.json; tiktoken: a file of ranks, as
    in Llama 3; sp: a SentencePiece model; cl100k_base, o200k_base, gpt2: that encoding of tiktoken,
    from its published file."""
    path: FilePath | None = None
    """The tokenizer's file."""
    n_words: PositiveInt | None = None
    """Number of token ids, V, special ones included; null: read from the file. A larger multiple of
    8 pads the vocabulary, such as 50304 for the 50257 ids of GPT-2."""
    bos: str | None = None
    """hf: the token before a document; null: a well-known name."""
    eos: str | None = None
    """hf: the token after a document; null: a well-known name."""

    @model_validator(mode="after")
    def _file_is_named(self) -> "TokenizerConfig":
        if self.name != "bytes" and self.path is None:
            raise RuleError(["name"], f"= {self.name} needs `path`, the file of the tokenizer")
        if self.name == "bytes" and self.path is not None:
            raise RuleError(["path", "name"], "tokenizer 'bytes' has no file; remove the path")
        return self

    @property
    def vocab_size(self) -> int:
        """Number of token ids, V. Raises ConfigError if it cannot be read from the file."""
        if self.n_words is not None:
            return self.n_words
        if self.path is None:
            return BYTE_VOCABULARY
        from trainer.vocabulary import vocabulary_size  # reads the file

        return vocabulary_size(self.name, self.path)


class DataConfig(Settings):
    """The training data and the shape of its batches."""

    other_names: ClassVar[Mapping[str, str]] = other_names.DATA

    root_dir: FilePath
    """Folder with one folder per source."""
    sources: Annotated[dict[Text, Weight], Field(min_length=1)]
    """Source folder -> weight; weights are normalised. A source of weight 0 is switched off: it is
    as if it were not there."""
    shards_dir: FilePath = "results/shards"
    """Folder of the token shards, made once per content and tokenizer."""
    batch_size: PositiveInt = 8
    """Sequences per GPU and micro-batch."""
    seq_len: PositiveInt = 2048
    """Tokens per sequence."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """How text becomes token ids."""
    add_bos: bool = True
    """Put BOS before every document."""
    add_eos: bool = True
    """Put EOS after every document."""
    seed: int | None = None
    """Seed of the sampling order; null means the run's seed."""
    load_async: bool = True
    """Read ahead in a thread; false: read each batch when its step needs it."""
    prefetch_size: PositiveInt = 4
    """Batches read ahead of the step that uses them."""
    document_mask: bool = False
    """Let tokens attend only within their own document; false: to the whole sequence before
    them."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "n_views": LeftOut(
            "a sequence always has two views, inputs and targets; expected 2", lingua.equals(2)
        ),
    }

    @field_validator("sources")
    @classmethod
    def _drop_switched_off(cls, sources: dict[str, float]) -> dict[str, float]:
        left = {source: weight for source, weight in sources.items() if weight > 0}
        if not left:
            raise ValueError("found only weights of 0; expected one above 0")
        return left

    @model_validator(mode="after")
    def _borders_are_marked(self) -> "DataConfig":
        if self.document_mask and not (self.add_bos or self.add_eos):
            message = "= true needs add_bos or add_eos to mark document boundaries"
            raise RuleError(["document_mask", "add_bos", "add_eos"], message)
        return self
