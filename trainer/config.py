"""The settings of one run: `RunConfig` is a run.yaml. Keys that mean the same are lingua's.

Imports no torch: the study checks and writes these files where no GPU library is at hand.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trainer.settings import (
    ConfigError,
    Settings,
    load_yaml,
    merge,
    nest,
    parse_yaml,
    suggest,
    validate,
)

BYTE_VOCABULARY = 258  # 256 bytes, BOS 256, EOS 257

Ratio = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


class ModelConfig(Settings):
    """The shape of the decoder. Its vocabulary is the tokenizer's."""

    dim: PositiveInt
    """Width of the residual stream, d."""
    n_layers: PositiveInt
    """Number of blocks, L."""
    n_heads: PositiveInt
    """Number of query heads; must divide dim."""
    n_kv_heads: PositiveInt | None = None
    """Number of key and value heads (grouped-query attention); null means n_heads."""
    ffn_dim_multiplier: PositiveFloat | None = None
    """Factor on the FFN's hidden width before it is rounded up."""
    multiple_of: PositiveInt = 256
    """The FFN's hidden width is rounded up to a multiple of this."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotary position embedding."""
    norm_eps: PositiveFloat = 1e-5
    """Epsilon of RMSNorm."""

    @model_validator(mode="after")
    def _heads_fit(self) -> "ModelConfig":
        if self.dim % self.n_heads:
            raise ValueError(
                f"n_heads = {self.n_heads} does not divide dim = {self.dim}; "
                f"try {_nearest_divisor(self.dim, self.n_heads)}"
            )
        if (self.dim // self.n_heads) % 2:
            raise ValueError(
                f"dim / n_heads = {self.dim // self.n_heads} is odd; rotary embedding needs pairs"
            )
        if self.n_heads % self.kv_heads:
            raise ValueError(
                f"n_kv_heads = {self.kv_heads} does not divide n_heads = {self.n_heads}; "
                f"try {_nearest_divisor(self.n_heads, self.kv_heads)}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def ffn_hidden(self) -> int:
        """Hidden width of the SwiGLU, h = int(2*(4*d)/3) [x multiplier], rounded up."""
        hidden = int(2 * (4 * self.dim) / 3)
        if self.ffn_dim_multiplier is not None:
            hidden = int(self.ffn_dim_multiplier * hidden)
        return self.multiple_of * -(-hidden // self.multiple_of)


class OptimConfig(Settings):
    """AdamW with warm-up and cosine decay."""

    lr: PositiveFloat = 3e-4
    """Peak learning rate."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    lr_min_ratio: Ratio = 0.1
    """Learning rate at the last step, as a fraction of lr."""
    clip: PositiveFloat | None = 1.0
    """Largest gradient norm; null switches clipping off (the norm is logged all the same)."""
    weight_decay: NonNegative = 0.1
    """Decoupled weight decay of the matrices; norm weights have none."""
    beta1: Ratio = 0.9
    """Decay of the first moment."""
    beta2: Ratio = 0.95
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment."""


class DistributedConfig(Settings):
    """How one run is spread over processes, and the arithmetic it uses."""

    fsdp_type: Literal["no_shard"] = "no_shard"
    """no_shard: every process holds the whole model (DDP)."""
    tp_size: Literal[1] = 1
    """Tensor-parallel processes; only 1 is offered."""
    model_dtype: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of the forward and backward pass; master weights and optimizer stay fp32."""
    compile: bool = False
    """Compile each block with torch.compile."""


class TokenizerConfig(Settings):
    """How text becomes token ids."""

    name: Literal["bytes"] = "bytes"
    """bytes: the UTF-8 bytes, BOS 256, EOS 257."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids, V."""
        return BYTE_VOCABULARY


class DataConfig(Settings):
    """What the run reads, and in what portions."""

    root_dir: str
    """Folder that holds one folder for each source."""
    sources: Annotated[dict[str, PositiveFloat], Field(min_length=1)]
    """Source folder -> weight; weights are normalised."""
    shards_dir: str = "results/shards"
    """Folder of the token shards, made once for each content and tokenizer."""
    batch_size: PositiveInt = 8
    """Sequences per GPU and forward pass."""
    seq_len: PositiveInt = 2048
    """Tokens per sequence."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """How text becomes token ids."""
    add_bos: bool = True
    """Put BOS before every document."""
    add_eos: bool = True
    """Put EOS after every document."""
    seed: int | None = None
    """Seed of the order of samples; null means the run's seed."""
    prefetch_size: PositiveInt = 4
    """Batches read ahead of the step that uses them."""


class LoggingConfig(Settings):
    """What is written down while the run goes on."""

    freq: PositiveInt = 10
    """Steps between records of metrics.jsonl; the first and the last step are always recorded."""


class SaveConfig(Settings):
    """One kind of checkpoint."""

    every: PositiveInt | None = None
    """Steps between saves; null means only at the end."""
    keep: Annotated[int, Field(ge=-1)] = 1
    """How many of this kind to keep; -1 keeps all."""


class CheckpointConfig(Settings):
    """Checkpoints to resume from. The last step is always saved."""

    dump: SaveConfig = SaveConfig()
    """Regular checkpoints."""
    eval: SaveConfig = SaveConfig()
    """Checkpoints taken at evaluations: `every` is also the period of the validation loss."""


class ValidationConfig(Settings):
    """How much held-out text one evaluation reads."""

    max_sequences: PositiveInt | None = 128
    """Sequences of data.seq_len, over all GPUs together; null reads everything."""


class EvalConfig(Settings):
    """Validation loss on held-out documents, every checkpoint.eval.every steps and at the end."""

    validation: ValidationConfig = ValidationConfig()
    """How much held-out text one evaluation reads."""


class RunConfig(Settings):
    """One training run, complete: what run.yaml holds."""

    dump_dir: str
    """Folder of the run: metrics, run.json and checkpoints go there."""
    name: str = "run"
    """Label for people."""
    steps: PositiveInt
    """Optimizer steps."""
    seed: int = 42
    """Seed of the initial weights and, unless data.seed is set, of the order of samples."""
    grad_acc_steps: PositiveInt = 1
    """Forward and backward passes per optimizer step."""
    optim: OptimConfig = OptimConfig()
    """The optimizer and its schedule."""
    distributed: DistributedConfig = DistributedConfig()
    """Processes and arithmetic."""
    model: ModelConfig
    """The shape of the model."""
    data: DataConfig
    """What the run reads."""
    logging: LoggingConfig = LoggingConfig()
    """What is written down."""
    checkpoint: CheckpointConfig | None = CheckpointConfig()
    """Checkpoints; null switches them off."""
    eval: EvalConfig | None = None
    """Validation loss; null switches it off."""

    @model_validator(mode="after")
    def _schedule_fits(self) -> "RunConfig":
        if self.optim.warmup > self.steps:
            raise ValueError(
                f"optim.warmup = {self.optim.warmup} is more than steps = {self.steps}"
            )
        return self

    def tokens_per_step(self, gpus: int) -> int:
        """Tokens of one optimizer step on `gpus` GPUs."""
        return self.data.batch_size * self.data.seq_len * self.grad_acc_steps * gpus

    def to_yaml(self) -> str:
        """The text of run.yaml, every key written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def fingerprint(self, gpus: int) -> str:
        """Sixteen hex digits that change with anything a measurement depends on.

        Where the run lies and what it is called is left out.
        """
        values = self.model_dump(mode="json", exclude={"dump_dir", "name"})
        return _digest({**values, "gpus": gpus})

    def trajectory(self, gpus: int) -> str:
        """Sixteen hex digits that change with anything the sequence of losses depends on.

        The losses depend on the global batch, not on how it is spread over GPUs, so a run may be
        resumed with another GPU count; saving, logging and evaluating leave no trace in them.
        """
        values = self.model_dump(mode="json", include={"steps", "seed", "optim", "model"})
        data = self.data.model_dump(
            mode="json", exclude={"root_dir", "shards_dir", "batch_size", "prefetch_size"}
        )
        batch = self.data.batch_size * self.grad_acc_steps * gpus
        dtype = self.distributed.model_dtype
        return _digest({**values, "data": data, "global_batch": batch, "dtype": dtype})


def load_run_config(arguments: Sequence[str]) -> RunConfig:
    """Return the run that a command line names: `config=run.yaml key=value a.b=value ...`.

    Later values win over earlier ones, and over the file. Values are read as YAML.
    """
    values: dict[str, Any] = {}
    source = "command line"
    for argument in arguments:
        key, sign, text = argument.partition("=")
        if not sign or not key:
            raise ConfigError("command line", [f"{argument}: expected key=value"])
        if key == "config":
            source = text
            values = merge(load_yaml(text), values)
        else:
            values = merge(values, nest(key, _parse_value(key, text)))
    if not arguments:
        raise ConfigError("command line", ["expected config=FILE and any number of key=value"])
    return validate(RunConfig, values, source)


def _parse_value(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError("command line", [f"{key}: '{text}' is not a YAML value"]) from None


def _digest(values: Any) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _nearest_divisor(total: int, wanted: int) -> int:
    divisors = [n for n in range(1, total + 1) if total % n == 0]
    return min(divisors, key=lambda n: (abs(n - wanted), -n))


__all__ = [
    "BYTE_VOCABULARY",
    "CheckpointConfig",
    "ConfigError",
    "DataConfig",
    "DistributedConfig",
    "EvalConfig",
    "LoggingConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "SaveConfig",
    "Settings",
    "TokenizerConfig",
    "ValidationConfig",
    "load_run_config",
    "load_yaml",
    "merge",
    "nest",
    "parse_yaml",
    "suggest",
    "validate",
]
