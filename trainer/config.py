"""The settings of one run: `RunConfig` is a run.yaml. Keys that mean the same are lingua's.

Imports no torch: the study checks and writes these files where no GPU library is at hand.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trainer.layers import Layer, Merged, merge, nest
from trainer.problems import ConfigError, Problem, RuleError
from trainer.settings import IsNumber, Settings, suggest, validate
from trainer.yaml_files import (
    Document,
    dump_yaml,
    load_document,
    load_yaml,
    parse_assignment,
    parse_yaml,
)

BYTE_VOCABULARY = 258  # 256 bytes, BOS 256, EOS 257

ATTENTION_ON_CPU = ("auto", "flash", "math")
"""Kernels of attention that a CPU has."""

ATTENTION_WITH_MASK = ("auto", "cudnn", "efficient", "math")
"""Kernels of attention that take a mask on a GPU."""

Device = Literal["cuda", "cpu"]

Ratio = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Weight = Annotated[PositiveFloat, IsNumber]
Text = Annotated[str, Field(min_length=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class ModelConfig(Settings):
    """The shape of the decoder. Its vocabulary is the tokenizer's."""

    dim: PositiveInt
    """Width of the residual stream, d."""
    n_layers: PositiveInt
    """Number of blocks, L."""
    n_heads: PositiveInt
    """Number of query heads; left out, dim / head_dim."""
    head_dim: PositiveInt
    """Width of one head; left out, dim / n_heads."""
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
    weight_tying: bool = False
    """The output matrix is the input embedding."""
    init_base_std: PositiveFloat | None = None
    """Standard deviation of the initial blocks; null means d^-0.5, and h^-0.5 for the FFN's w2."""
    init_std_factor: Literal["disabled", "global_depth", "current_depth", "dim_ratio"] = "disabled"
    """What divides the standard deviation of each block's two output matrices: nothing,
    sqrt(2 (L + 1)), sqrt(2 (l + 1)) of block l = 0, 1, ..., or d / 4096."""
    sliding_window: PositiveInt | None = None
    """A token sees itself and as many tokens before it, less one; null means all before it."""

    left_out: ClassVar[Mapping[str, str]] = {
        "vocab_size": "the tokenizer decides; see data.tokenizer",
        "max_seqlen": "the positions are those of data.seq_len",
        "seed": "the run's seed draws the initial weights; set seed",
    }

    @model_validator(mode="before")
    @classmethod
    def _complete_heads(cls, values: Any) -> Any:
        """Fill in the one of n_heads and head_dim that is left out."""
        if not isinstance(values, Mapping):
            return values
        values = {
            key: value
            for key, value in values.items()
            if value is not None or key not in ("n_heads", "head_dim")
        }
        dim = values.get("dim")
        for given, other in (("n_heads", "head_dim"), ("head_dim", "n_heads")):
            count = values.get(given)
            if other in values or not _are_positive_integers(dim, count):
                continue
            if dim % count:
                message = f"= {count} does not divide dim = {dim}"
                hint = f"try {_nearest_divisor(dim, count)}"
                raise RuleError([given, "dim"], f"{message}; {hint}")
            values[other] = dim // count
        if "n_heads" not in values and "head_dim" not in values:
            values["head_dim"] = 2  # that n_heads is missing is complaint enough
        return values

    @model_validator(mode="after")
    def _heads_fit(self) -> "ModelConfig":
        if self.head_dim % 2:
            message = f"= {self.head_dim} is odd; rotary embedding needs pairs"
            raise RuleError(["head_dim", "n_heads", "dim"], message)
        if self.n_heads % self.kv_heads:
            message = f"= {self.kv_heads} does not divide n_heads = {self.n_heads}"
            hint = f"try {_nearest_divisor(self.n_heads, self.kv_heads)}"
            raise RuleError(["n_kv_heads", "n_heads"], f"{message}; {hint}")
        return self

    @property
    def q_dim(self) -> int:
        """Width of all query heads together; dim in most shapes."""
        return self.n_heads * self.head_dim

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
    """The optimizer, and the schedule of its learning rate."""

    name: Literal["adamw"] = "adamw"
    """The optimizer; trainer/model/optimizers.py lists what each one costs."""
    lr: PositiveFloat = 3e-4
    """Peak learning rate."""
    scheduler: Literal["cosine", "linear", "constant", "inv_sqrt", "wsd"] = "cosine"
    """How the learning rate falls after the warm-up; formulas: trainer/model/learning_rate.py."""
    warmup: Annotated[int, Field(ge=0)] = 0
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
    """Largest gradient norm; null switches clipping off (the norm is logged all the same)."""
    weight_decay: NonNegative = 0.1
    """Decoupled weight decay of the matrices; norm weights have none."""
    beta1: Ratio = 0.9
    """Decay of the first moment."""
    beta2: Ratio = 0.95
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    fused: bool = True
    """The step of all weights is one kernel; false: an operation after the other."""

    left_out: ClassVar[Mapping[str, str]] = {"annealing_step": "lingua has it and reads it nowhere"}

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> "OptimConfig":
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
    """How one run is spread over processes, and the arithmetic it uses."""

    fsdp_type: Literal["no_shard", "full_shard"] = "no_shard"
    """no_shard: every data-parallel process holds the whole model (DDP); full_shard: weights,
    gradients and optimizer are spread over dp_shard processes (FSDP2)."""
    dp_shard: PositiveInt | None = None
    """full_shard: processes that share one copy; null means all that tp_size leaves."""
    dp_replicate: PositiveInt | None = None
    """Copies of the model; null means as many as the processes give. With full_shard and more than
    one copy: hybrid sharding, a copy on each node."""
    tp_size: PositiveInt = 1
    """Tensor-parallel processes, with the sequence spread over them between the matrices."""
    model_dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the forward and backward pass; master weights and optimizer stay fp32. auto:
    bf16 on a GPU and on processors that multiply it, fp32 on others."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """What gradients are sent to other processes in, while the backward pass goes on."""
    compile: bool | Literal["auto"] = "auto"
    """Compile each block with torch.compile, before the first step. auto: true on a GPU, false on a
    CPU, where it gains a few percent."""
    compile_cache: str | None = None
    """Folder of compiled code, shared by runs and machines; null: where torch has it."""
    cuda_graphs: bool = False
    """One GPU: capture the whole step once, and replay it without the CPU."""
    fused_projections: bool | Literal["auto"] = "auto"
    """Matrices with one input are multiplied as one: wq, wk, wv, and w1, w3. auto: on a GPU, and on
    a CPU for tiny models. Never where weights are spread over processes, or float8."""
    attention: Literal["auto", "flash", "fa3", "cudnn", "efficient", "math"] = "auto"
    """Kernel of attention; auto: on a GPU the fastest, measured once at the start. fa3 needs the
    package flash_attn_3."""
    cpu_matmul: Literal["auto", "mkl", "onednn"] = "auto"
    """Library of fp32 matmuls on a CPU; auto: oneDNN if MKL leaves AVX-512 unused."""
    loss_chunk: NonNegativeInt | Literal["auto"] = "auto"
    """Tokens whose logits exist at once; 0: all; auto: 4096 for vocabularies of 32K and more."""
    float8_recipe: Literal["tensorwise", "rowwise", "rowwise_with_gw_hp"] | None = None
    """Products of the blocks in float8, by torchao (`pip install torchao`); null: none. It pays
    from about 1B parameters, on GPUs that have float8."""
    float8_filter: str = r"layers\.[0-9]+\."
    """float8: regular expression, found in the names of the matrices that use it."""
    freeze_gc: bool = True
    """Python collects garbage once before the first step, and lets lie what was there then."""
    keep_memory: bool = True
    """CPU: freed memory stays with the process; to get it anew costs a page fault every 4 KiB."""
    threads: PositiveInt | None = None
    """CPU threads of each process; null: its share of the cores that it may run on. Variables such
    as OMP_NUM_THREADS count for nothing."""
    compile_cache_size_limit: PositiveInt = 8
    """Compilations of one block before torch.compile gives up."""
    selective_activation_checkpointing: bool = False
    """lingua's name of activation_checkpointing: selective."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """What the backward pass computes again instead of keeping it: nothing, all but the matrix
    products and attention, or whole blocks."""
    matmul_allow_tf32: bool = False
    """fp32 products of matrices on a GPU may round to TF32."""
    allow_bf16_reduced_precision_reduction: bool = True
    """bf16 products of matrices may add up in bf16."""
    detect_anomaly: bool = False
    """Name the operation that made the first NaN of a backward pass; slow."""
    timeout_s: Annotated[float, Field(gt=0, le=1e9)] = 600.0
    """Seconds after which a collective operation fails: a rank that hangs ends the run."""

    left_out: ClassVar[Mapping[str, str]] = {
        "spawn_method": "no process is started by multiprocessing; torchrun starts the ranks",
    }

    @model_validator(mode="before")
    @classmethod
    def _take_former_names(cls, values: Any) -> Any:
        """Read `cpu_products`, as earlier files have it, as `cpu_matmul`."""
        if not isinstance(values, Mapping) or "cpu_products" not in values:
            return values
        former = {"cpu_products": "cpu_matmul"}
        return {former.get(key, key): value for key, value in values.items()}

    @model_validator(mode="after")
    def _layout_is_whole(self) -> "DistributedConfig":
        if self.fsdp_type == "no_shard" and (self.dp_shard or 1) > 1:
            message = f"= {self.dp_shard} needs fsdp_type: full_shard"
            raise RuleError(["dp_shard", "fsdp_type"], message)
        if self.selective_activation_checkpointing and self.activation_checkpointing == "full":
            message = "= true contradicts activation_checkpointing: full; leave one of them out"
            keys = ["selective_activation_checkpointing", "activation_checkpointing"]
            raise RuleError(keys, message)
        return self

    @model_validator(mode="after")
    def _switches_agree(self) -> "DistributedConfig":
        if self.float8_recipe is not None and self.tp_size > 1:
            raise RuleError(["float8_recipe", "tp_size"], "not supported with tp_size > 1")
        if self.tp_size > 1 and self.loss_chunk not in ("auto", 0):
            message = f"= {self.loss_chunk}: not supported with tp_size > 1"
            raise RuleError(["loss_chunk", "tp_size"], message)
        return self

    @property
    def recompute(self) -> Literal["none", "selective", "full"]:
        """What the backward pass computes again."""
        return (
            "selective"
            if self.selective_activation_checkpointing
            else self.activation_checkpointing
        )

    @property
    def shards_weights(self) -> bool:
        """Whether several processes share one copy of the weights."""
        return self.fsdp_type == "full_shard" or self.tp_size > 1

    def data_parallel(self, gpus: int) -> tuple[int, int]:
        """Return (copies of the model, processes that share each) on `gpus` processes.

        Raises RuleError, relative to the run, if the layout does not fill them.
        """
        if gpus % self.tp_size:
            message = f"= {self.tp_size} does not divide {gpus} processes"
            raise RuleError(["distributed.tp_size"], message)
        left = gpus // self.tp_size
        if self.fsdp_type == "no_shard":
            shard = 1
        else:
            shard = self.dp_shard or left // (self.dp_replicate or 1)
        copies = self.dp_replicate or left // max(1, shard)
        if copies * shard != left:
            message = (
                f"{copies} copies x {shard} shards x tp_size {self.tp_size} are not {gpus} "
                "processes; leave out dp_replicate, or dp_shard"
            )
            raise RuleError(["distributed"], message)
        return copies, shard


class TokenizerConfig(Settings):
    """How text becomes token ids."""

    name: Literal["bytes", "hf", "tiktoken", "sp"] = "bytes"
    """bytes: the UTF-8 bytes, BOS 256, EOS 257; hf: a tokenizer.json; tiktoken: a file of ranks, as
    Llama 3 has it; sp: a SentencePiece model."""
    path: Text | None = None
    """The tokenizer's file."""
    n_words: PositiveInt | None = None
    """Number of token ids, V, special ones included; null: read from the file."""
    bos: str | None = None
    """hf: the token before a document; null: the one that files usually have."""
    eos: str | None = None
    """hf: the token after a document; null: the one that files usually have."""

    @model_validator(mode="after")
    def _file_is_named(self) -> "TokenizerConfig":
        if (self.path is None) != (self.name == "bytes"):
            wants = "has no file; leave it out" if self.name == "bytes" else "needs its file"
            raise RuleError(["path", "name"], f"tokenizer '{self.name}' {wants}")
        return self

    @property
    def vocab_size(self) -> int:
        """Number of token ids, V. Raises ConfigError where the file does not tell it."""
        if self.n_words is not None:
            return self.n_words
        if self.path is None:
            return BYTE_VOCABULARY
        from trainer.vocabulary import vocabulary_size  # reads the file

        return vocabulary_size(self.name, self.path)


class DataConfig(Settings):
    """What the run reads, and in what portions."""

    root_dir: Text
    """Folder that holds one folder for each source."""
    sources: Annotated[dict[Text, Weight], Field(min_length=1)]
    """Source folder -> weight; weights are normalised."""
    shards_dir: Text = "results/shards"
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
    load_async: bool = True
    """Read ahead in a thread; false reads each batch when its step asks for it."""
    prefetch_size: PositiveInt = 4
    """Batches read ahead of the step that uses them."""
    document_mask: bool = False
    """A token sees its own document only; false: all of the sequence before it."""

    left_out: ClassVar[Mapping[str, str]] = {
        "n_views": "a sequence always has two views, inputs and targets; leave it out",
    }

    @model_validator(mode="after")
    def _borders_are_marked(self) -> "DataConfig":
        if self.document_mask and not (self.add_bos or self.add_eos):
            message = "= true needs add_bos or add_eos, which mark the borders"
            raise RuleError(["document_mask", "add_bos", "add_eos"], message)
        return self


class WandbConfig(Settings):
    """Weights & Biases; the keys are those of wandb.init. Needs `pip install wandb`."""

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
    dir: str | None = None
    """Folder of wandb's files; null: the run's folder."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """offline writes files to be sent later by `wandb sync`."""
    id: str | None = None
    """Id of the run; null: made from dump_dir, so that a resumed run is one run."""


class LoggingConfig(Settings):
    """What is written down while the run goes on."""

    freq: PositiveInt = 10
    """Steps between records of metrics.jsonl; the first and the last step are always recorded."""
    wandb: WandbConfig | None = None
    """Send the records to Weights & Biases too."""
    tensorboard: bool = False
    """Write the records for TensorBoard too, to dump_dir/tensorboard."""

    left_out: ClassVar[Mapping[str, str]] = {
        "acc_freq": "a record is of whole steps; set freq",
    }


class ProfilingConfig(Settings):
    """A window of steps under torch.profiler, and on a GPU of memory snapshots."""

    run: bool = False
    """Profile."""
    trace_folder: Text = "profiling"
    """Folder of the traces below dump_dir; open them in https://ui.perfetto.dev."""
    profile_warmup: Annotated[int, Field(ge=0)] = 102
    """Steps before the window."""
    profile_steps: PositiveInt = 2
    """Steps of the window."""
    mem_warmup: Annotated[int, Field(ge=0)] = 100
    """GPU: steps before the history of allocations."""
    mem_steps: PositiveInt = 2
    """GPU: steps of the history of allocations."""


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
    path: Text | None = None
    """Folder of the checkpoints; null: dump_dir/checkpoints."""
    init_ckpt_path: Text | None = None
    """Checkpoint folder of another run whose weights this one starts from."""
    async_save: bool = True
    """Write checkpoints while training goes on."""

    left_out: ClassVar[Mapping[str, str]] = {
        "continue_training_from_init": "to go on from another run's optimizer and step, copy its "
        "folder of checkpoints to checkpoint.path",
    }


class ValidationConfig(Settings):
    """How much held-out text one evaluation reads."""

    max_sequences: PositiveInt | None = 128
    """Sequences of data.seq_len, over all GPUs together; null reads everything."""

    left_out: ClassVar[Mapping[str, str]] = {
        "max_steps": "in steps the text would depend on the number of GPUs; set max_sequences",
        "use_val_from_train_src": "the held-out text is always that of data.sources",
        "root_dir": "the held-out text is always that of data.sources",
        "sources": "the held-out text is always that of data.sources",
    }


class EvalConfig(Settings):
    """Validation loss on held-out documents, every checkpoint.eval.every steps and at the end."""

    validation: ValidationConfig = ValidationConfig()
    """How much held-out text one evaluation reads."""

    left_out: ClassVar[Mapping[str, str]] = {
        "harness": "tasks run on the exported model; see the rule evaluate",
        "generator": "nothing is generated while training; export the model and use transformers",
        **dict.fromkeys(
            ("name", "dump_dir", "metric_log_dir", "ckpt_dir", "wandb", "global_step"),
            "an evaluation is a part of its run: metrics.eval.jsonl in the run's folder",
        ),
    }


class RunConfig(Settings):
    """One training run, complete: what run.yaml holds."""

    dump_dir: Text
    """Folder of the run: metrics, run.json and checkpoints go there."""
    name: str = "run"
    """Label for people."""
    steps: PositiveInt
    """Optimizer steps."""
    seed: int = 42
    """Seed of the initial weights and, unless data.seed is set, of the order of samples."""
    device: Device = "cuda"
    """What each process trains on. Where there is no such device the run is refused."""
    gpu_name: str | None = None
    """Words that the GPU's name must hold, such as H200; null: any GPU."""
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
    profiling: ProfilingConfig = ProfilingConfig()
    """Traces of a few steps."""

    left_out: ClassVar[Mapping[str, str]] = {
        "gc_collect_freq": "garbage is collected before the first step, and what is left is frozen",
        "probe_freq": "there is no probe; see profiling",
        "env": "set environment variables before the launch: `setup` of the study's cluster",
        "async_eval_gpus": "evaluation is a part of the run; see checkpoint.eval.every",
    }

    @model_validator(mode="after")
    def _schedule_fits(self) -> "RunConfig":
        if self.optim.warmup > self.steps:
            message = f"= {self.optim.warmup} is more than steps = {self.steps}"
            raise RuleError(["optim.warmup", "steps"], message)
        return self

    @model_validator(mode="after")
    def _attention_is_there(self) -> "RunConfig":
        wanted, key = self.distributed.attention, "distributed.attention"
        if self.device == "cpu" and wanted not in ATTENTION_ON_CPU:
            expected = f"expected one of {', '.join(ATTENTION_ON_CPU)}"
            raise RuleError([key, "device"], f"= {wanted}: not on a CPU; {expected}")
        if self.device == "cuda" and self.is_masked and wanted not in ATTENTION_WITH_MASK:
            expected = f"expected one of {', '.join(ATTENTION_WITH_MASK)}"
            keys = [key, "data.document_mask", "model.sliding_window"]
            raise RuleError(keys, f"= {wanted}: takes no mask; {expected}")
        return self

    @property
    def is_masked(self) -> bool:
        """Whether attention needs a mask beyond the causal one."""
        return self.data.document_mask or self.model.sliding_window is not None

    def find_problems(self, gpus: int) -> list[Problem]:
        """Return what keeps the run from being spread over `gpus` processes."""
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
        if distributed.cuda_graphs and gpus > 1:
            message = f"supported on one GPU, not on {gpus}"
            rules.append(RuleError(["distributed.cuda_graphs"], message))
        return [rule.problem() for rule in rules]

    def check_processes(self, gpus: int) -> None:
        """Raise ConfigError if the run cannot be spread over `gpus` processes."""
        problems = self.find_problems(gpus)
        if problems:
            raise ConfigError("run", problems)

    def sequences_per_step(self, gpus: int) -> int:
        """Sequences of one optimizer step on `gpus` GPUs: tensor-parallel ones share theirs."""
        return self.data.batch_size * self.grad_acc_steps * gpus // self.distributed.tp_size

    def tokens_per_step(self, gpus: int) -> int:
        """Tokens of one optimizer step on `gpus` GPUs."""
        return self.sequences_per_step(gpus) * self.data.seq_len

    def to_yaml(self) -> str:
        """The text of run.yaml, every key written out."""
        return dump_yaml(self.model_dump(mode="json"))

    def fingerprint(self, gpus: int) -> str:
        """Sixteen hex digits that change with anything a run's results depend on.

        Left out: what the run is called, and where its files lie. What the text is stands in
        run.json as `content`.
        """
        values = self.model_dump(
            mode="json",
            # A key that is added later, at its default, leaves the fingerprints of today.
            exclude_defaults=True,
            exclude={
                "dump_dir": True,
                "name": True,
                "gpu_name": True,
                "data": {"root_dir": True, "shards_dir": True, "tokenizer": {"path"}},
                "distributed": {"timeout_s", "compile_cache"},
                "logging": {"wandb", "tensorboard"},
                "checkpoint": {"path"},
            },
        )
        return digest({**values, "gpus": gpus})

    def speed_key(self, gpus: int) -> str:
        """Sixteen hex digits that are equal only if two runs have the same speed."""
        return digest(self.speed_settings(gpus))

    def speed_settings(self, gpus: int) -> dict[str, Any]:
        """Return every setting that can change the time of a step on the same machines.

        Left out: names and places, how long the run is, what only changes the values of numbers
        (seed, learning rate, which text), and checkpoints and evaluations, whose time is not a
        step's.
        """
        values = self.model_dump(
            mode="json",
            exclude={
                **dict.fromkeys(("dump_dir", "name", "seed", "steps", "gpu_name", "optim"), True),
                "model": {"rope_theta", "norm_eps", "init_base_std", "init_std_factor"},
                "data": {"root_dir", "sources", "shards_dir", "seed", "tokenizer", "add_eos"},
                "distributed": {
                    *("timeout_s", "compile_cache", "dp_shard", "dp_replicate"),
                    *("activation_checkpointing", "selective_activation_checkpointing"),
                },
                "checkpoint": True,
                "eval": True,
            },
        )
        if self.device == "cuda":
            del values["distributed"]["threads"]  # no operation of a step runs on the CPU
        return {
            **values,
            "gpus": gpus,
            "layout": self.distributed.data_parallel(gpus),
            "recompute": self.distributed.recompute,
            "vocab_size": self.data.tokenizer.vocab_size,
            "optim": {
                "name": self.optim.name,
                "fused": self.optim.fused,
                "clips": self.optim.clip is not None,
            },
        }

    def trajectory(self, gpus: int) -> str:
        """Sixteen hex digits that change with anything the sequence of losses depends on.

        The losses depend on the global batch, not on how it is spread over GPUs, so a run may be
        resumed with another GPU count; saving, logging and evaluating leave no trace in them.
        """
        included = {"steps", "seed", "optim", "model"}
        values = self.model_dump(mode="json", exclude_defaults=True, include=included)
        data = self.data.model_dump(
            mode="json",
            exclude_defaults=True,
            exclude={
                **dict.fromkeys(
                    ("root_dir", "shards_dir", "batch_size", "prefetch_size", "load_async"), True
                ),
                "tokenizer": {"path"},
            },
        )
        batch = self.sequences_per_step(gpus)
        dtype = self.distributed.model_dtype
        init = self.checkpoint and self.checkpoint.init_ckpt_path
        return digest({**values, "data": data, "global_batch": batch, "dtype": dtype, "init": init})


def load_run_config(arguments: Sequence[str]) -> RunConfig:
    """Return the run that a command line names: `config=run.yaml key=value a.b=value ...`.

    Later values win over earlier ones, and over the file. Values are read as YAML.
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


def digest(values: Any) -> str:
    """Return sixteen hex digits of values that JSON knows; the order of keys does not matter."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _are_positive_integers(*values: Any) -> bool:
    return all(type(value) is int and value > 0 for value in values)


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
