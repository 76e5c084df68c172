"""The settings of one run: `RunConfig` is a run.yaml. Keys that mean the same are lingua's.

Imports no torch: the study checks and writes these files on machines without it.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from trainer import lingua, other_names
from trainer.layers import Layer, Merged, merge, nest
from trainer.paths import FilePath, expand_path, is_path
from trainer.problems import ConfigError, Problem, RuleError
from trainer.settings import (
    IsNumber,
    LeftOut,
    Settings,
    group_in,
    report_with,
    suggest,
    validate,
)
from trainer.yaml_files import (
    Document,
    dump_yaml,
    load_document,
    load_yaml,
    parse_assignment,
    parse_yaml,
)

BYTE_VOCABULARY = 258  # 256 bytes, BOS 256, EOS 257

HOW_DATA_IS_READ: Any = {
    **dict.fromkeys(("root_dir", "shards_dir", "batch_size", "prefetch_size", "load_async"), True),
    "tokenizer": {"path"},
}
"""Settings of the data that do not change the sequence of samples."""

MOST_TRIES = 10_000
"""Most numbers to look at on each side for a divisor to suggest."""

ATTENTION_ON_CPU = ("auto", "flash", "math")
"""Attention kernels that a CPU has."""

FLEX_BLOCK = 128
"""Queries, and keys, of a block of FlexAttention's masks."""

ATTENTION_WITH_MASK = ("auto", "flex", "cudnn", "efficient", "math")
"""Attention kernels that take a mask on a GPU."""

Device = Literal["cuda", "cpu"]

TokenizerName = Literal["bytes", "hf", "tiktoken", "sp", "cl100k_base", "o200k_base", "gpt2"]

ActivationCheckpointing = Literal["none", "selective", "full"]
"""Which activations the backward pass recomputes: none, all but the results of matmuls and
attention, or those of whole blocks."""

Ratio = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Weight = Annotated[NonNegative, IsNumber]
Text = Annotated[str, Field(min_length=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]

ARCHITECTURE = ("qk_norm", "norm_type", "activation", "pos_embed")
"""Keys of the model, besides its sizes, that can change the speed."""

WANDB_PASSED_ON = (
    *("resume", "config_exclude_keys", "config_include_keys", "anonymous", "allow_val_change"),
    *("force", "tensorboard", "sync_tensorboard", "monitor_gym", "save_code"),
    *("fork_from", "resume_from"),
)
"""Keys of logging.wandb that cannot change the speed."""


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
        dim, broken = values.get("dim"), None
        for given, other in (("n_heads", "head_dim"), ("head_dim", "n_heads")):
            count = values.get(given)
            if other in values or not _are_positive_integers(dim, count):
                continue
            if dim % count:
                message = f"= {count} does not divide dim = {dim}{_hint_at_divisor(dim, count)}"
                broken = RuleError([given, "dim"], message)
            values[other] = 2 if broken else dim // count
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


class OptimConfig(Settings):
    """The optimizer and its learning-rate schedule."""

    other_names: ClassVar[Mapping[str, str]] = other_names.OPTIM

    name: Literal["adamw", "muon"] = "adamw"
    """The optimizer. muon trains the blocks' matrices, and AdamW embedding, output and norms;
    trainer/model/optimizers.py has the costs of each."""
    lr: PositiveFloat = 3e-4
    """Peak learning rate."""
    scheduler: Literal["cosine", "linear", "constant", "inv_sqrt", "wsd"] = "cosine"
    """Learning-rate schedule after the warm-up; formulas: trainer/model/learning_rate.py."""
    warmup: NonNegativeInt = 0
    """Steps of linear warm-up; `constant` has none."""
    lr_min_ratio: Ratio = 0.1
    """Smallest learning rate, as a fraction of lr."""
    cycle_length: Annotated[float, Field(gt=0, le=1)] = 1.0
    """cosine, wsd: length of a cycle, as a fraction of the run."""
    cosine_theta: PositiveFloat = 1.0
    """cosine: power of the progress."""
    decay_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """wsd: the decay's share of a cycle."""
    exp_factor: PositiveFloat = 0.5
    """inv_sqrt: power of warmup / step."""
    clip: PositiveFloat | None = 1.0
    """Largest gradient norm; null turns clipping off (the norm is still logged)."""
    weight_decay: NonNegative = 0.1
    """Decoupled weight decay of the matrices; norm weights have none."""
    beta1: Ratio = 0.9
    """Decay of the first moment."""
    beta2: Ratio = 0.95
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    momentum: Ratio = 0.95
    """muon: decay of the matrices' momentum."""
    fused: bool = True
    """AdamW: update all weights in one kernel; false: one operation at a time."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "annealing_step": LeftOut("lingua defines but never uses it", lingua.is_count),
    }

    @model_validator(mode="after")
    def _schedule_is_valid(self) -> "OptimConfig":
        if self.scheduler == "inv_sqrt" and self.warmup == 0:
            message = "= 0, but scheduler inv_sqrt falls as warmup / step; expected 1 or more"
            raise RuleError(["warmup", "scheduler"], message)
        if self.scheduler == "wsd" and self.decay_fraction >= self.cycle_length:
            message = f"= {self.decay_fraction} must be less than cycle_length"
            keys = ["decay_fraction", "cycle_length", "scheduler"]
            raise RuleError(keys, f"{message} = {self.cycle_length}")
        if self.scheduler == "wsd" and self.lr_min_ratio == 0:
            message = "= 0, but scheduler wsd divides by it; expected more than 0"
            raise RuleError(["lr_min_ratio", "scheduler"], message)
        return self


class DistributedConfig(Settings):
    """How a run is distributed over processes, and its arithmetic."""

    other_names: ClassVar[Mapping[str, str]] = other_names.DISTRIBUTED

    fsdp_type: Literal["no_shard", "full_shard"] = "no_shard"
    """no_shard: every data-parallel process holds the whole model (DDP); full_shard: weights,
    gradients and optimizer state are sharded over dp_shard processes (FSDP2)."""
    dp_shard: PositiveInt | None = None
    """full_shard: processes that share one model replica; null: processes / tp_size /
    dp_replicate. 1, lingua's default: all processes, whatever dp_replicate says, as in lingua."""
    dp_replicate: PositiveInt | None = None
    """Model replicas; null means as many as the number of processes allows. More than one with
    full_shard is hybrid sharding, usually one replica per node."""
    tp_size: PositiveInt = 1
    """Tensor-parallel processes; between the matmuls the sequence is sharded over them."""
    model_dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the forward and backward pass; master weights and optimizer state stay fp32.
    auto: bf16 on GPUs and on CPUs with bf16 instructions, else fp32."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format in which gradients are reduced over processes during the backward pass."""
    compile: bool | Literal["auto"] = "auto"
    """Compile each block with torch.compile before the first step. auto: true on a GPU, false on a
    CPU, where the gain is only a few percent."""
    compile_cache: FilePath | None = None
    """Cache folder of compiled code, shared by runs and machines; null: torch's default."""
    residual_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format of the residual stream, between the blocks; bf16 takes effect only if
    model_dtype is bf16. Norms and loss compute in fp32 either way."""
    cuda_graphs: bool | Literal["auto"] = "auto"
    """Capture the whole step as a CUDA graph and replay it. auto: true on GPUs, unless weights are
    sharded, float8 or anomalies detected."""
    fused_pointwise: bool | Literal["auto"] = "auto"
    """Compute SwiGLU and rotary embedding in one Triton kernel each way, if projections are fused;
    with qk_norm, not the rotary embedding. auto: true on a GPU."""
    fused_projections: bool | Literal["auto"] = "auto"
    """Fuse matmuls that share an input: wq, wk, wv, and w1, w3. auto: true on a GPU, and on a CPU
    for tiny models. Never fused if weights are sharded or float8."""
    attention: Literal["auto", "flash", "fa3", "fa4", "cudnn", "efficient", "math", "flex"] = "auto"
    """Attention kernel; auto: on a GPU the fastest, measured at the start of the run; with a
    document mask or sliding window flex, which skips what the mask hides. fa3 needs the package
    flash_attn_3, fa4 flash-attn-4."""
    cpu_matmul: Literal["auto", "mkl", "onednn"] = "auto"
    """Library of fp32 matmuls on a CPU; auto: oneDNN if MKL leaves AVX-512 unused."""
    loss_chunk: NonNegativeInt | Literal["auto"] = "auto"
    """Tokens whose logits are in memory at once; 0: all; auto: 4096 for vocabularies of 32K or
    more."""
    float8_recipe: Literal["tensorwise", "rowwise", "rowwise_with_gw_hp"] | None = None
    """Run the blocks' matmuls in float8 with torchao (`pip install torchao`); null: none. It pays
    off from about 1B parameters, on GPUs that support float8."""
    float8_filter: str = r"layers\.[0-9]+\."
    """float8: regular expression to search for in the names of the matrices to convert."""
    freeze_gc: bool = True
    """Run gc.collect() and gc.freeze() before the first step."""
    keep_memory: bool = True
    """CPU: keep freed memory in the allocator instead of returning it to the OS (avoids page
    faults)."""
    threads: PositiveInt | None = None
    """CPU threads of each process; null: its share of the cores that it may run on. Variables such
    as OMP_NUM_THREADS are ignored."""
    compile_cache_size_limit: PositiveInt = 8
    """Compilations of one block before torch.compile gives up."""
    selective_activation_checkpointing: bool = False
    """lingua's name for activation_checkpointing: selective."""
    activation_checkpointing: ActivationCheckpointing = "none"
    """What the backward pass recomputes instead of keeping it in memory: nothing, all but the
    results of matmuls and attention, or whole blocks."""
    matmul_allow_tf32: bool = False
    """Allow TF32 in fp32 matmuls on a GPU."""
    allow_bf16_reduced_precision_reduction: bool = True
    """Allow bf16 accumulation in bf16 matmuls."""
    detect_anomaly: bool = False
    """Name the operation that produced the first NaN of a backward pass; slow."""
    timeout_s: Annotated[float, Field(gt=0, le=1e9)] = 600.0
    """Seconds after which a collective fails: a rank that hangs ends the run."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "spawn_method": LeftOut(
            "torchrun starts the ranks, not multiprocessing",
            lingua.equals("fork", "forkserver", "spawn"),
        ),
    }

    @model_validator(mode="before")
    @classmethod
    def _take_former_names(cls, values: Any) -> Any:
        """Accept `cpu_products`, the former name of `cpu_matmul`."""
        if not isinstance(values, Mapping) or "cpu_products" not in values:
            return values
        former = {"cpu_products": "cpu_matmul"}
        return {former.get(key, key): value for key, value in values.items()}

    @model_validator(mode="after")
    def _layout_is_valid(self) -> "DistributedConfig":
        if self.fsdp_type == "no_shard" and (self.dp_shard or 1) > 1:
            message = f"= {self.dp_shard} needs fsdp_type: full_shard"
            raise RuleError(["dp_shard", "fsdp_type"], message)
        if self.selective_activation_checkpointing and self.activation_checkpointing == "full":
            message = "= true contradicts activation_checkpointing: full; remove one of them"
            keys = ["selective_activation_checkpointing", "activation_checkpointing"]
            raise RuleError(keys, message)
        return self

    @model_validator(mode="after")
    def _tensor_parallel_is_supported(self) -> "DistributedConfig":
        if self.float8_recipe is not None and self.tp_size > 1:
            raise RuleError(["float8_recipe", "tp_size"], "not supported with tp_size > 1")
        if self.tp_size > 1 and self.loss_chunk not in ("auto", 0):
            message = f"= {self.loss_chunk}: not supported with tp_size > 1"
            raise RuleError(["loss_chunk", "tp_size"], message)
        return self

    @property
    def ac_mode(self) -> ActivationCheckpointing:
        """Activation checkpointing, by either of its keys."""
        selective = self.selective_activation_checkpointing
        return "selective" if selective else self.activation_checkpointing

    @property
    def shards_weights(self) -> bool:
        """Whether the weights of a model replica are sharded if there are several processes."""
        return self.fsdp_type == "full_shard" or self.tp_size > 1

    def is_sharded(self, gpus: int) -> bool:
        """Say whether weights are sharded over `gpus` processes; a single one holds them all."""
        return gpus > 1 and self.shards_weights

    def data_parallel(self, gpus: int) -> tuple[int, int]:
        """Return (dp_replicate, dp_shard) on `gpus` processes.

        Raises RuleError, with keys of the run, if the layout does not use exactly `gpus` processes.
        """
        if gpus % self.tp_size:
            message = f"= {self.tp_size} does not divide {gpus} processes"
            raise RuleError(["distributed.tp_size"], message)
        data_parallel = gpus // self.tp_size
        if self.fsdp_type == "full_shard" and self.dp_shard == 1:
            return 1, data_parallel
        if self.fsdp_type == "no_shard":
            shard = 1
        else:
            shard = self.dp_shard or data_parallel // (self.dp_replicate or 1)
        replicate = self.dp_replicate or data_parallel // max(1, shard)
        if replicate * shard != data_parallel:
            message = (
                f"dp_replicate {replicate} x dp_shard {shard} x tp_size {self.tp_size} are not "
                f"{gpus} processes; remove dp_replicate or dp_shard"
            )
            raise RuleError(["distributed"], message)
        return replicate, shard


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
        if (self.path is None) != (self.name == "bytes"):
            wants = "has no file; remove the path" if self.name == "bytes" else "needs its file"
            raise RuleError(["path", "name"], f"tokenizer '{self.name}' {wants}")
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


class WandbConfig(Settings):
    """Weights & Biases; keys as in wandb.init. Needs `pip install wandb`."""

    project: str | None = None
    """Project; null: wandb's default."""
    entity: str | None = None
    """Team or user."""
    name: str | None = None
    """Name of the run; null: the run's own."""
    group: str | None = None
    """Group of runs."""
    job_type: str | None = None
    """Type of run."""
    tags: tuple[str, ...] | None = None
    """Tags."""
    notes: str | None = None
    """Notes."""
    dir: FilePath | None = None
    """Folder of wandb's files; null: the run's folder."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """offline: write files for a later `wandb sync`."""
    id: str | None = None
    """Id of the run; null: derived from dump_dir, so that all attempts are one run."""
    resume: bool | Literal["allow", "must", "never", "auto"] | None = None
    """Whether to continue the run of that id; null: allow."""
    config_exclude_keys: tuple[str, ...] | None = None
    """Settings not to send."""
    config_include_keys: tuple[str, ...] | None = None
    """The only settings to send."""
    anonymous: str | None = None
    """Whether a run without a login is allowed."""
    allow_val_change: bool | None = None
    """Whether settings may change."""
    force: bool | None = None
    """Whether a run without a login fails."""
    tensorboard: bool | None = None
    """Former name of sync_tensorboard."""
    sync_tensorboard: bool | None = None
    """Send TensorBoard's records too."""
    monitor_gym: bool | None = None
    """Send videos of OpenAI Gym."""
    save_code: bool | None = None
    """Send the main script."""
    fork_from: str | None = None
    """Run and step to branch from."""
    resume_from: str | None = None
    """Run and step to go back to."""


class LoggingConfig(Settings):
    """What the run logs."""

    other_names: ClassVar[Mapping[str, str]] = other_names.LOGGING

    freq: PositiveInt = 10
    """Steps between records of metrics.jsonl; the first and the last step are always recorded."""
    wandb: WandbConfig | None = None
    """Also send the records to Weights & Biases."""
    tensorboard: bool = False
    """Also write the records for TensorBoard, to dump_dir/tensorboard."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "acc_freq": "records cover whole steps; set freq",
    }


class ProfilingConfig(Settings):
    """A window of steps under torch.profiler and, on a GPU, with memory history."""

    run: bool = False
    """Profile."""
    trace_folder: FilePath = "profiling"
    """Folder of the traces below dump_dir; open them in https://ui.perfetto.dev."""
    profile_warmup: NonNegativeInt = 102
    """Steps before the window."""
    profile_steps: PositiveInt = 2
    """Steps of the window."""
    mem_warmup: NonNegativeInt = 100
    """GPU: steps before the memory history."""
    mem_steps: PositiveInt = 2
    """GPU: steps of the memory history."""


class SaveConfig(Settings):
    """One kind of checkpoint."""

    other_names: ClassVar[Mapping[str, str]] = other_names.SAVE

    every: PositiveInt | None = None
    """Steps between saves; null: only at the end."""
    keep: Annotated[int, Field(ge=-1)] = 1
    """How many of this kind to keep; 0 or -1: all."""


class CheckpointConfig(Settings):
    """Checkpoints to resume from. The last step is always saved."""

    other_names: ClassVar[Mapping[str, str]] = other_names.CHECKPOINT

    dump: SaveConfig = SaveConfig()
    """Regular checkpoints."""
    eval: SaveConfig = SaveConfig()
    """Checkpoints taken at evaluations: `every` is also the period of the validation loss."""
    path: FilePath | None = None
    """Folder of the checkpoints; null: dump_dir/checkpoints."""
    init_ckpt_path: FilePath | None = None
    """Weights to start from: a run or checkpoint of ours, an export or a Hugging Face Llama or
    Qwen3, or a checkpoint of lingua. The shape must be this run's."""
    continue_from: FilePath | None = None
    """Another run's folder (its newest checkpoint) or checkpoint, to continue: its weights,
    optimizer state, step and position in the data, with this run's steps, schedule and data."""
    continue_run: Annotated[str, Field(pattern=r"^[0-9a-f]{16}-[0-9]+$")] | None = None
    """Which checkpoint continue_from is: `RunConfig.trajectory` of its run, a minus sign and its
    step. Any other is refused, and the fingerprint depends on this instead of the path. null: not
    checked. The workflow sets it."""
    async_save: bool = True
    """Write checkpoints in the background while training continues."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "continue_training_from_init": LeftOut(
            "to continue another run's weights, optimizer and data, set checkpoint.continue_from",
            lingua.equals(False),
        ),
    }

    @model_validator(mode="after")
    def _begins_once(self) -> "CheckpointConfig":
        if self.continue_from is not None and self.init_ckpt_path is not None:
            message = "contradicts init_ckpt_path, which takes only weights; remove one of them"
            raise RuleError(["continue_from", "init_ckpt_path"], message)
        if self.continue_run is not None and self.continue_from is None:
            raise RuleError(["continue_run", "continue_from"], "needs continue_from")
        return self


class ValidationConfig(Settings):
    """How much held-out text one evaluation reads."""

    max_sequences: PositiveInt | None = 128
    """Sequences of data.seq_len in total over all GPUs; null: all."""
    sources: tuple[Text, ...] | None = None
    """Source folders in data.root_dir whose held-out text is read, in equal parts; null: those of
    data.sources. Runs with the same ones have comparable losses, whatever they are trained on."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "max_steps": "a number of steps would depend on the number of GPUs; set max_sequences",
        **{
            key: LeftOut("name the sources of the held-out text in sources", lingua.equals(usual))
            for key, usual in (("use_val_from_train_src", True), ("root_dir", ""))
        },
    }

    @field_validator("sources", mode="before")
    @classmethod
    def _none_is_usual(cls, value: Any) -> Any:
        return None if value == [] else value  # lingua's default


class EvalConfig(Settings):
    """Validation loss on held-out documents, periodically and at the end."""

    every: PositiveInt | None = None
    """Steps between evaluations, which then save no checkpoint; null: checkpoint.eval.every."""
    validation: ValidationConfig = ValidationConfig()
    """How much held-out text one evaluation reads."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "harness": LeftOut(
            "tasks run on the exported model: name them in the study's evaluate.tasks, or run "
            "lm_eval on an export; here, expected eval: null or eval: {validation: "
            "{max_sequences: 128}}",
            lingua.names_no_tasks,
        ),
        "generator": LeftOut(
            "training generates no text; python -m trainer.sample does, from a run",
            lambda value: isinstance(value, Mapping),  # only harness uses it
        ),
        "dataset_dir": "name the sources of the held-out text in validation.sources",
        **dict.fromkeys(
            ("name", "dump_dir", "metric_log_dir", "ckpt_dir", "wandb", "global_step"),
            "evaluations are part of the run: metrics.eval.jsonl in its folder",
        ),
    }


class RunConfig(Settings):
    """All settings of one training run: the content of run.yaml."""

    other_names: ClassVar[Mapping[str, str]] = other_names.RUN

    dump_dir: FilePath
    """Folder of the run: metrics, run.json and checkpoints."""
    name: str = "run"
    """Display name."""
    steps: PositiveInt
    """Optimizer steps."""
    seed: int = 42
    """Seed of the initial weights, unless model.seed is set, and of the sampling order, unless
    data.seed is set."""
    device: Device = "cuda"
    """What each process trains on. The run fails if the device is missing."""
    gpu_name: str | None = None
    """Words required in the GPU's name, such as H200; null: any GPU."""
    grad_acc_steps: PositiveInt = 1
    """Gradient accumulation: micro-batches per optimizer step."""
    optim: OptimConfig = OptimConfig()
    """The optimizer and its learning-rate schedule."""
    distributed: DistributedConfig = DistributedConfig()
    """Processes and arithmetic."""
    model: ModelConfig
    """The shape of the model."""
    data: DataConfig
    """The training data."""
    logging: LoggingConfig = LoggingConfig()
    """What the run logs."""
    checkpoint: CheckpointConfig | None = CheckpointConfig()
    """Checkpoints; null turns them off."""
    eval: EvalConfig | None = None
    """Validation loss; null turns it off."""
    profiling: ProfilingConfig = ProfilingConfig()
    """Traces of a few steps."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "gc_collect_freq": LeftOut(
            "garbage is collected once, before the first step; see freeze_gc", lingua.is_count
        ),
        "probe_freq": "probes are not supported; set it to null, or see profiling",
        "env": LeftOut(
            "set environment variables before the launch: `setup` of the study's cluster",
            lingua.is_default_environment,
        ),
        "async_eval_gpus": "evaluation is part of the run; see eval.every, checkpoint.eval.every",
        "model_type": lingua.ONLY,
    }

    @model_validator(mode="before")
    @classmethod
    def _read_lingua(cls, values: Any) -> Any:
        return lingua.translate(values, BYTE_VOCABULARY) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _schedule_fits(self) -> "RunConfig":
        if self.optim.warmup > self.steps:
            message = f"= {self.optim.warmup} is more than steps = {self.steps}"
            raise RuleError(["optim.warmup", "steps"], message)
        return self

    @model_validator(mode="after")
    def _attention_is_supported(self) -> "RunConfig":
        wanted, key = self.distributed.attention, "distributed.attention"
        if self.device == "cpu" and wanted not in ATTENTION_ON_CPU:
            expected = f"expected one of {', '.join(ATTENTION_ON_CPU)}"
            raise RuleError([key, "device"], f"= {wanted}: not supported on a CPU; {expected}")
        if self.device == "cuda" and self.is_masked and wanted not in ATTENTION_WITH_MASK:
            expected = f"expected one of {', '.join(ATTENTION_WITH_MASK)}"
            keys = [key, "data.document_mask", "model.sliding_window"]
            raise RuleError(keys, f"= {wanted}: not supported with a mask; {expected}")
        if wanted == "flex" and not (self.is_masked and self.fits_flex):
            expected = (
                "expected a document mask or sliding window, and data.seq_len "
                f"({self.data.seq_len}) a multiple of {FLEX_BLOCK}"
            )
            raise RuleError([key, "data.seq_len"], f"= flex: not supported here; {expected}")
        return self

    @property
    def is_masked(self) -> bool:
        """Whether attention needs a mask beyond the causal one."""
        return self.data.document_mask or self.model.sliding_window is not None

    @property
    def order_seed(self) -> int:
        """Seed of the sampling order."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def weights_seed(self) -> int:
        """Seed of the initial weights."""
        return self.seed if self.model.seed is None else self.model.seed

    @property
    def evaluation_period(self) -> int | None:
        """Steps between evaluations of the validation loss; None: only at the end, if at all."""
        if self.eval is None:
            return None
        every = self.checkpoint.eval.every if self.checkpoint else None
        return self.eval.every or every

    @property
    def fits_flex(self) -> bool:
        """Whether FlexAttention's blocks divide the sequences."""
        return self.data.seq_len % FLEX_BLOCK == 0

    def find_problems(self, gpus: int) -> list[Problem]:
        """Return the problems with running on `gpus` processes."""
        distributed, model = self.distributed, self.model
        rules = []
        try:
            distributed.data_parallel(gpus)
        except RuleError as error:
            rules.append(error)
        tp = distributed.tp_size
        for name, count in (
            ("model.n_heads", model.n_heads),
            ("model.n_kv_heads", model.kv_heads),
            ("data.seq_len", self.data.seq_len),
        ):
            if count % tp and (name != "model.n_kv_heads" or model.kv_heads != model.n_heads):
                message = f"= {tp} does not divide {name} = {count}"
                rules.append(RuleError(["distributed.tp_size", name], message))
        if tp > 1 and model.weight_tying:
            keys = ["model.weight_tying", "distributed.tp_size"]
            rules.append(RuleError(keys, "not supported with distributed.tp_size > 1"))
        sharded = distributed.is_sharded(gpus)
        if distributed.cuda_graphs is True and sharded and self.device == "cuda":
            message = "= true: not supported with sharded weights; expected auto or false"
            rules.append(RuleError(["distributed.cuda_graphs"], message))
        return [rule.problem() for rule in rules]

    def check_processes(self, gpus: int) -> None:
        """Raise ConfigError if the run cannot run on `gpus` processes."""
        problems = self.find_problems(gpus)
        if problems:
            raise ConfigError("run", problems)

    @property
    def held_out_sources(self) -> list[str]:
        """Sources of the held-out text; none without evaluation."""
        if self.eval is None:
            return []
        return list(self.eval.validation.sources or self.data.sources)

    @property
    def sources(self) -> list[str]:
        """Sources that are read: to train on, then those that are only evaluated."""
        return list(dict.fromkeys([*self.data.sources, *self.held_out_sources]))

    def sequences_per_step(self, gpus: int) -> int:
        """Sequences of one optimizer step on `gpus` GPUs; tensor-parallel GPUs share theirs."""
        tp_size = self.distributed.tp_size
        return global_batch(self.data.batch_size, self.grad_acc_steps, gpus, tp_size)

    def tokens_per_step(self, gpus: int) -> int:
        """Tokens of one optimizer step on `gpus` GPUs."""
        return self.sequences_per_step(gpus) * self.data.seq_len

    def to_yaml(self) -> str:
        """The text of run.yaml, with every key."""
        return dump_yaml(self.model_dump(mode="json"))

    def fingerprint(self, gpus: int) -> str:
        """Sixteen hex digits that change with anything a run's results depend on.

        Left out: names and paths. The key of the training data is in run.json as `content`.
        """
        checkpoint = self.checkpoint
        named = checkpoint is not None and checkpoint.continue_run is not None
        values = self.model_dump(
            mode="json",
            # A key that is added later, at its default, leaves today's fingerprints unchanged.
            exclude_defaults=True,
            exclude={
                "dump_dir": True,
                "name": True,
                "gpu_name": True,
                "data": {"root_dir": True, "shards_dir": True, "tokenizer": {"path"}},
                "distributed": {"timeout_s", "compile_cache"},
                "logging": {"wandb", "tensorboard"},
                "checkpoint": {"path", *(["continue_from"] if named else [])},
            },
        )
        return digest({**values, "gpus": gpus})

    def speed_key(self, gpus: int) -> str:
        """Sixteen hex digits; equal only if two runs are expected to have the same speed."""
        return digest(self.speed_settings(gpus))

    def speed_settings(self, gpus: int) -> dict[str, Any]:
        """Return every setting that can change the step time on the same machines.

        Left out: names and paths, the length of the run, what changes only the values of numbers
        (seed, learning rate, training data), and checkpoints and evaluations, which are not part
        of the step time.
        """
        fields = ModelConfig.model_fields
        # Left out at their default, they leave the keys of earlier runs unchanged.
        usual = {key for key in ARCHITECTURE if getattr(self.model, key) == fields[key].default}
        values = self.model_dump(
            mode="json",
            exclude={
                **dict.fromkeys(("dump_dir", "name", "seed", "steps", "gpu_name", "optim"), True),
                "model": {
                    *("rope_theta", "rope_scaling", "norm_eps", "init_base_std", "init_std_factor"),
                    *("seed", *usual),
                },
                "data": {"root_dir", "sources", "shards_dir", "seed", "tokenizer", "add_eos"},
                "distributed": {
                    *("timeout_s", "compile_cache", "dp_shard", "dp_replicate"),
                    *("activation_checkpointing", "selective_activation_checkpointing"),
                },
                # The first wandb keys stay, so that the keys of earlier runs do not change.
                "logging": {"wandb": {*WANDB_PASSED_ON}},
                "checkpoint": True,
                "eval": True,
            },
        )
        if self.device == "cuda":
            del values["distributed"]["threads"]  # a step's operations all run on the GPU
        return {
            **values,
            "gpus": gpus,
            "layout": self.distributed.data_parallel(gpus),
            "recompute": self.distributed.ac_mode,
            "vocab_size": self.data.tokenizer.vocab_size,
            "optim": {
                "name": self.optim.name,
                "fused": self.optim.fused,
                "clips": self.optim.clip is not None,
            },
        }

    def trajectory(self, gpus: int) -> str:
        """Sixteen hex digits that change with anything the sequence of losses depends on.

        The losses depend on the global batch, not on how it is split over GPUs, so a run can be
        resumed with another GPU count. Saving, logging and evaluating do not affect them.
        """
        included = {"steps", "seed", "optim", "model"}
        values = self.model_dump(mode="json", exclude_defaults=True, include=included)
        data = self.data.model_dump(mode="json", exclude_defaults=True, exclude=HOW_DATA_IS_READ)
        batch = self.sequences_per_step(gpus)
        dtype = self.distributed.model_dtype
        init = self.checkpoint and self.checkpoint.init_ckpt_path
        settings = {**values, "data": data, "global_batch": batch, "dtype": dtype, "init": init}
        if self.checkpoint and self.checkpoint.continue_from:
            continued = self.checkpoint.continue_run or self.checkpoint.continue_from
            settings["continue_from"] = continued
        if self.distributed.residual_dtype != "fp32":
            settings["residual_dtype"] = self.distributed.residual_dtype
        return digest(settings)

    def settings_of_continued(self) -> dict[str, Any]:
        """Return dotted key -> value of what a run and the one it continues have in common."""
        # The others matter only to the initial weights.
        model = self.model.model_dump(mode="json", exclude={"init_base_std", "init_std_factor"})
        model["n_kv_heads"] = self.model.kv_heads
        model["sliding_window"] = self.model.sliding_window or "all"
        model["rope_scaling"] = model["rope_scaling"] or "none"
        try:
            vocabulary = self.data.tokenizer.vocab_size
        except ConfigError:  # the tokenizer's file is no longer there
            vocabulary = None
        return {
            **{f"model.{key}": value for key, value in model.items()},
            "data.tokenizer.n_words": vocabulary,
            "data.seq_len": self.data.seq_len,
            "the seed of the sampling order": self.order_seed,
            "optim.name": self.optim.name,
        }

    def losses_depend_on(self) -> dict[str, Any]:
        """Return dotted key -> value of what `trajectory` has of model, optimizer and data."""
        included = {"steps", "seed", "optim", "model"}
        values = self.model_dump(mode="json", include=included)
        values["data"] = self.data.model_dump(mode="json", exclude=HOW_DATA_IS_READ)
        return dict(_flatten(values))


def global_batch(batch_size: int, grad_acc_steps: int, gpus: int, tp_size: int) -> int:
    """Return the sequences of one optimizer step; tensor-parallel GPUs share theirs."""
    return batch_size * grad_acc_steps * gpus // tp_size


def load_run_config(arguments: Sequence[str]) -> RunConfig:
    """Return the run that a command line names: `config=run.yaml key=value a.b=value ...`.

    Values are read as YAML; later ones override earlier ones, and the file. Raises ConfigError.
    """
    if not arguments:
        raise ConfigError("command line", ["expected config=FILE and any number of key=value"])
    given: dict[str, Any] = {}
    files: list[Document] = []
    for argument in arguments:
        if argument.startswith("config="):
            files.append(load_document(argument.removeprefix("config=")))
        else:
            given = merge(given, nest(*parse_assignment(argument)))
    layers = [*map(Layer.of, reversed(files)), Layer(given, source="command line")]
    return validate(RunConfig, Merged(layers), files[-1].source if files else "command line")


def expand_paths(values: Mapping[str, Any], group: type[Settings] = RunConfig) -> dict[str, Any]:
    """Return some keys of a run.yaml with their paths expanded; what cannot be is left as it is,
    for `RunConfig` to refuse."""
    expanded = dict(values)
    for name, field in group.model_fields.items():
        value, inner = values.get(name), group_in(field.annotation)
        if inner is not None and isinstance(value, Mapping):
            expanded[name] = expand_paths(value, inner)
        elif isinstance(value, str) and is_path(field):
            with contextlib.suppress(ValueError):
                expanded[name] = expand_path(value)
    return expanded


def digest(values: Any) -> str:
    """Return sixteen hex digits of JSON values, independent of the order of keys."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _are_positive_integers(*values: Any) -> bool:
    return all(type(value) is int and value > 0 for value in values)


def _hint_at_divisor(total: int, wanted: int) -> str:
    """Return `; try 8`, with the divisor of `total` nearest to `wanted`; empty if none is near."""
    for distance in range(MOST_TRIES):
        for number in (wanted + distance, wanted - distance):
            if 0 < number <= total and total % number == 0:
                return f"; try {number}"
    return ""


__all__ = [
    "BYTE_VOCABULARY",
    "ActivationCheckpointing",
    "CheckpointConfig",
    "ConfigError",
    "DataConfig",
    "DistributedConfig",
    "EvalConfig",
    "LoggingConfig",
    "ModelConfig",
    "OptimConfig",
    "RopeScaling",
    "RunConfig",
    "SaveConfig",
    "Settings",
    "TokenizerConfig",
    "ValidationConfig",
    "global_batch",
    "load_run_config",
    "load_yaml",
    "merge",
    "nest",
    "parse_yaml",
    "suggest",
    "validate",
]
