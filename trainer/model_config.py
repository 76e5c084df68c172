"""The shape of the model: `model` of a run.yaml."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ModelWrapValidatorHandler, PositiveFloat, PositiveInt, model_validator

from trainer import lingua, other_names
from trainer.problems import RuleError
from trainer.settings import LeftOut, Settings, report_with

MOST_TRIES = 10_000
"""Most numbers to look at on each side for a divisor to suggest."""

ARCHITECTURE = ("qk_norm", "norm_type", "activation", "pos_embed")
"""Keys of the model, besides its sizes, that can change the speed."""


class RopeScaling(Settings):
    """Rotary frequencies for longer sequences; keys as in Hugging Face's config.json."""

    other_names: ClassVar[Mapping[str, str]] = {"type": "rope_type"}

    rope_type: Literal["llama3", "linear"]
    """linear: all frequencies are divided by factor; llama3: those of long wavelengths, and of
    medium ones in part."""
    factor: Annotated[float, Field(ge=1)]
    """What frequencies are divided by."""
    low_freq_factor: PositiveFloat | None = None
    """llama3: wavelengths above original_max_position_embeddings / this are divided by factor."""
    high_freq_factor: PositiveFloat | None = None
    """llama3: wavelengths below original_max_position_embeddings / this are kept."""
    original_max_position_embeddings: PositiveInt | None = None
    """llama3: sequence length before the scaling."""

    @model_validator(mode="after")
    def _keys_fit(self) -> "RopeScaling":
        keys = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        given = [key for key in keys if getattr(self, key) is not None]
        if self.rope_type == "llama3" and len(given) < len(keys):
            missing = ", ".join(key for key in keys if key not in given)
            raise RuleError(["rope_type"], f"= llama3 also needs {missing}")
        if self.rope_type == "linear" and given:
            message = f"= linear has only factor; remove {', '.join(given)}"
            raise RuleError(["rope_type"], message)
        low, high = self.low_freq_factor, self.high_freq_factor
        if low is not None and high is not None and high <= low:
            message = f"= {high:g}; expected more than low_freq_factor = {low:g}"
            raise RuleError(["high_freq_factor", "low_freq_factor"], message)
        return self


class ModelConfig(Settings):
    """The shape of the decoder. Its vocabulary is the tokenizer's, or data.tokenizer.n_words."""

    other_names: ClassVar[Mapping[str, str]] = other_names.MODEL

    dim: PositiveInt
    """Width of the residual stream, d."""
    n_layers: PositiveInt
    """Number of blocks, L."""
    n_heads: PositiveInt
    """Number of query heads; dim / head_dim by default."""
    head_dim: PositiveInt
    """Width of one head; dim / n_heads by default."""
    n_kv_heads: PositiveInt | None = None
    """Number of key and value heads (grouped-query attention); null means n_heads."""
    ffn_dim_multiplier: PositiveFloat | None = None
    """Factor on the FFN's hidden width, applied before rounding up."""
    multiple_of: PositiveInt = 256
    """The FFN's hidden width is rounded up to a multiple of this."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotary position embedding."""
    rope_scaling: RopeScaling | None = None
    """Scaling of the rotary frequencies; null: none."""
    pos_embed: Literal["rope", "none"] = "rope"
    """Position embedding: rope, rotary; none: only the causal mask tells positions apart."""
    norm_type: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Norm before attention, FFN and output matrix; layernorm has weights but no biases."""
    norm_eps: PositiveFloat = 1e-5
    """Epsilon of the norms."""
    qk_norm: bool = False
    """RMSNorm of each query and key head before the rotary embedding, with one weight vector of
    head_dim for queries and one for keys, as in Qwen3 (in OLMo 2 it spans all heads)."""
    activation: Literal["swiglu", "gelu", "relu2"] = "swiglu"
    """The FFN: swiglu is gated, w2(silu(w1 x) * w3 x); gelu (exact) and relu2 (ReLU squared) have
    two matrices, w2(f(w1 x)). The hidden width is the same for all."""
    weight_tying: bool = False
    """Use the input embedding as the output matrix."""
    init_base_std: PositiveFloat | None = None
    """Standard deviation of the blocks' initial weights; null means d^-0.5, and h^-0.5 for the
    FFN's w2."""
    init_std_factor: Literal["disabled", "global_depth", "current_depth", "dim_ratio"] = "disabled"
    """What divides the standard deviation of each block's two output matrices: nothing,
    sqrt(2 (L + 1)), sqrt(2 (l + 1)) of block l = 0, 1, ..., or d / 4096."""
    sliding_window: PositiveInt | None = None
    """Number of tokens that each token attends to, itself included; null means all up to itself."""
    seed: int | None = None
    """Seed of the initial weights; null means the run's seed."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        **lingua.refused_families(),
        "n_future_head": LeftOut(lingua.refused_families()["n_future_head"], lingua.equals(1)),
        "vocab_size": LeftOut("the tokenizer decides; see data.tokenizer", lingua.equals(-1)),
        "max_seqlen": "the positions are those of data.seq_len; expected that or none",
    }

    @model_validator(mode="wrap")
    @classmethod
    def _complete_heads(
        cls, values: Any, build: ModelWrapValidatorHandler["ModelConfig"]
    ) -> "ModelConfig":
        """Derive a missing n_heads or head_dim from the other."""
        if not isinstance(values, Mapping):
            return build(values)
        values = {
            key: value
            for key, value in values.items()
            if value is not None or key not in ("n_heads", "head_dim")
        }
        dim, broken = _whole(values.get("dim")), None
        for given, other in (("n_heads", "head_dim"), ("head_dim", "n_heads")):
            if given not in values or other in values:
                continue
            count = _whole(values[given])
            if dim and count and dim % count:
                message = f"= {count} does not divide dim = {dim}{_hint_at_divisor(dim, count)}"
                broken = RuleError([given, "dim"], message)
            # 2: what is wrong with the two is a problem already, and the third is not missing.
            values[other] = dim // count if dim and count and not broken else 2
        if "n_heads" not in values and "head_dim" not in values:
            values["head_dim"] = 2  # report only n_heads as missing
        return build(values) if broken is None else report_with(broken, build, values)

    @model_validator(mode="after")
    def _heads_fit(self) -> "ModelConfig":
        if self.head_dim % 2 and self.pos_embed == "rope":
            message = f"= {self.head_dim} is odd; rotary embedding needs pairs"
            raise RuleError(["head_dim", "n_heads", "dim"], message)
        if self.n_heads % self.kv_heads:
            message = f"= {self.kv_heads} does not divide n_heads = {self.n_heads}"
            hint = _hint_at_divisor(self.n_heads, self.kv_heads)
            raise RuleError(["n_kv_heads", "n_heads"], f"{message}{hint}")
        return self

    @model_validator(mode="after")
    def _scaling_has_positions(self) -> "ModelConfig":
        if self.rope_scaling is not None and self.pos_embed == "none":
            message = "= none leaves rope_scaling nothing to scale; expected rope_scaling: null"
            raise RuleError(["pos_embed", "rope_scaling"], message)
        return self

    @property
    def q_dim(self) -> int:
        """Total width of the query heads; usually dim."""
        return self.n_heads * self.head_dim

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def kv_dim(self) -> int:
        """Total width of the key heads, and of the value heads."""
        return self.kv_heads * self.head_dim

    @property
    def is_gated(self) -> bool:
        """Whether the FFN has a gate, its third matrix."""
        return self.activation == "swiglu"

    @property
    def rotates_projections(self) -> bool:
        """Whether queries and keys are rotated just as their matrices return them."""
        return self.pos_embed == "rope" and not self.qk_norm

    @property
    def ffn_hidden(self) -> int:
        """Hidden width of the FFN, h = int(2*(4*d)/3) [x multiplier], rounded up.

        Without a gate it is the same: the FFN then has two thirds of the parameters.
        """
        hidden = int(2 * (4 * self.dim) / 3)
        if self.ffn_dim_multiplier is not None:
            hidden = int(self.ffn_dim_multiplier * hidden)
        return self.multiple_of * -(-hidden // self.multiple_of)


def _whole(value: Any) -> int | None:
    """Return a positive whole number, such as 512 or 1e3, as an int; None for anything else."""
    is_whole = type(value) is int or (type(value) is float and value.is_integer())
    return int(value) if is_whole and value > 0 else None


def _hint_at_divisor(total: int, wanted: int) -> str:
    """Return `; try 8`, with the divisor of `total` nearest to `wanted`; empty if none is near."""
    for distance in range(MOST_TRIES):
        for number in (wanted + distance, wanted - distance):
            if 0 < number <= total and total % number == 0:
                return f"; try {number}"
    return ""
