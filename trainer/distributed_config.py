"""Processes and arithmetic: `distributed` of a run.yaml."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from trainer import lingua, other_names
from trainer.paths import FilePath
from trainer.problems import RuleError
from trainer.settings import LeftOut, Settings

ActivationCheckpointing = Literal["none", "selective", "full"]
"""Which activations the backward pass recomputes: none, all but the results of matmuls and
attention, or those of whole blocks."""


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
    compile_options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options of torch.compile for the blocks and the loss, as its `options`: for example
    {combo_kernels: true}. torch.compile's own defaults hold for all others."""
    residual_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format of the residual stream, between the blocks; bf16 takes effect only if
    model_dtype is bf16. With full_shard on several processes, the stream always has model_dtype.
    Norms and loss compute in fp32 either way."""
    cuda_graphs: bool | Literal["auto"] = "auto"
    """Capture the whole step as a CUDA graph and replay it. auto: true on GPUs, unless weights are
    sharded, float8 or anomalies detected."""
    fused_pointwise: bool | Literal["auto"] = "auto"
    """Compute token embedding, residual sum with RMSNorm, rotary embedding, SwiGLU and the loss's
    gradient with Triton kernels, if projections are fused; with qk_norm, not the rotary embedding;
    with LayerNorm, neither norms nor embedding and loss. Where the step is a CUDA graph in bf16,
    also AdamW of the blocks' matrices, which writes their bf16 copies. auto: true on a GPU."""
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
    """float8: regular expression to search for in the names of the blocks' matrices, such as
    layers.0.attention.wq; those whose sides are multiples of 16 are converted."""
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

    @field_validator("float8_filter")
    @classmethod
    def _is_a_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except (re.error, OverflowError) as error:
            message = f"found {value!r}; expected a regular expression: {error}"
            raise ValueError(message) from None
        return value

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
    def other_formats(self) -> dict[str, Any]:
        """Number formats besides model_dtype, each only if it is not the default."""
        names = {"residual_dtype", "reduce_dtype", "matmul_allow_tf32", "float8_recipe"}
        if self.float8_recipe is not None:
            names.add("float8_filter")
        return self.model_dump(mode="json", exclude_defaults=True, include=names)

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
