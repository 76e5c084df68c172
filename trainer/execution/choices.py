"""Resolves every `auto` of a run's settings, once per run.

The results are in run.json under `choices`. The study calls the same functions for choices that
depend on the settings alone, and reads run.json for those that depend on the machine. Imports no
torch.
"""

from dataclasses import dataclass
from typing import Literal

from trainer import host
from trainer.config import Device, DistributedConfig, RunConfig
from trainer.flops import is_large_matmul

LARGE_VOCABULARY = 32_000
"""Vocabulary size from which the loss is chunked: the logits outgrow a layer's activations."""

LOSS_CHUNK = 4096
"""Tokens per chunk."""

OUTPUT_MULTIPLE = 64
"""The byte tokenizer has 258 ids: rows of 258 bf16 numbers are not aligned to the 16 bytes that a
GPU's fast matmuls load at a time."""

Dtype = Literal["bf16", "fp32"]
CpuMatmul = Literal["torch", "mkl", "onednn"]


@dataclass(frozen=True)
class Machine:
    """What a choice may depend on besides the settings."""

    has_bf16: bool
    """The processor has bf16 instructions."""
    mkl_is_slow: bool
    """MKL leaves AVX-512 unused."""
    has_onednn: bool
    """torch is built with oneDNN."""
    cores: int
    """Cores that this machine's ranks share."""
    ranks: int
    """Ranks on this machine."""


@dataclass(frozen=True)
class Choices:
    """What a run uses, with every `auto` resolved."""

    model_dtype: Dtype
    """Number format of the forward and backward pass."""
    compiled: bool
    """Blocks are compiled."""
    fused_projections: bool
    """Matmuls that share an input are fused."""
    loss_chunk: int
    """Tokens whose logits are in memory at once; 0: all."""
    cpu_matmul: CpuMatmul
    """Library of fp32 matmuls on a CPU; `torch`: torch's default."""
    threads: int
    """CPU threads of a rank."""
    attention: str | None
    """Attention kernel; `torch`: torch's default; None: to be benchmarked on this GPU."""
    cuda_graphs: bool = False
    """The step is replayed as a CUDA graph."""
    residual_dtype: Dtype = "fp32"
    """Number format of the residual stream."""
    fused_pointwise: bool = False
    """What lies between matmuls is computed by Triton kernels, where the model has one for it."""
    output_multiple: int = 1
    """Multiple of rows to which the loss's matmuls pad the output matrix; 1: none."""
    weight_copies: bool = False
    """The blocks' matrices have bf16 copies, which the optimizer writes."""


def find_machine(ranks: int, has_onednn: bool) -> Machine:
    """Return the properties of this machine, on which `ranks` ranks run."""
    return Machine(
        has_bf16=has_bf16(),
        mkl_is_slow=host.mkl_is_slow(host.processor()),
        has_onednn=has_onednn,
        cores=host.count_cores(),
        ranks=ranks,
    )


def has_bf16() -> bool:
    """Say whether this machine's processor has bf16 instructions."""
    return host.has_bf16(host.processor())


def choose(config: RunConfig, gpus: int, machine: Machine) -> Choices:
    """Return what a run on `gpus` processes uses on a machine."""
    settings, vocab_size = config.distributed, config.data.tokenizer.vocab_size
    dtype = model_dtype(settings, config.device, machine.has_bf16)
    assert dtype is not None, "the processor is known"
    fuses_projections = _fuses_projections(config, gpus)
    return Choices(
        model_dtype=dtype,
        compiled=is_compiled(settings, config.device),
        fused_projections=fuses_projections,
        loss_chunk=loss_chunk(settings, vocab_size),
        cpu_matmul=_cpu_matmul(config, dtype, machine),
        threads=settings.threads or max(1, machine.cores // machine.ranks),
        attention=_attention(config, gpus),
        cuda_graphs=_uses_cuda_graphs(config, gpus),
        residual_dtype=_residual_dtype(settings, gpus, dtype),
        fused_pointwise=fuses_projections and _fuses_pointwise(config),
        output_multiple=_output_multiple(config, gpus),
        weight_copies=_keeps_copies(config, gpus, dtype),
    )


def model_dtype(
    settings: DistributedConfig, device: Device, on_bf16_processor: bool | None = None
) -> Dtype | None:
    """Return the number format of the forward and backward pass.

    `on_bf16_processor` says whether the processor has bf16 instructions. Returns None if the answer
    depends on that and it is unknown.
    """
    if settings.model_dtype != "auto":
        return settings.model_dtype
    if device == "cuda":
        return "bf16"
    if on_bf16_processor is None:
        return None
    return "bf16" if on_bf16_processor else "fp32"


def is_compiled(settings: DistributedConfig, device: Device) -> bool:
    """Say whether blocks are compiled; `auto` is true on a GPU only: a CPU gains a few percent."""
    return device == "cuda" if settings.compile == "auto" else settings.compile


def loss_chunk(settings: DistributedConfig, vocab_size: int) -> int:
    """Return the tokens whose logits are in memory at once; 0 for all."""
    if settings.loss_chunk != "auto":
        return settings.loss_chunk
    return LOSS_CHUNK if vocab_size >= LARGE_VOCABULARY and settings.tp_size == 1 else 0


def _residual_dtype(settings: DistributedConfig, gpus: int, dtype: Dtype) -> Dtype:
    """Return the number format of the residual stream; with FSDP2, it is that of the weights."""
    if dtype == "fp32":
        return "fp32"
    uses_fsdp = settings.is_sharded(gpus) and settings.data_parallel(gpus) != (1, 1)
    return "bf16" if uses_fsdp else settings.residual_dtype


def _fuses_projections(config: RunConfig, gpus: int) -> bool:
    settings, dim = config.distributed, config.model.dim
    # Sharding and float8 select matrices by name, so they need them unfused.
    if settings.is_sharded(gpus) or settings.float8_recipe is not None:
        return False
    if settings.fused_projections != "auto":
        return settings.fused_projections
    # On a CPU fusing large matmuls gains nothing, and unfused ones fit the caches better.
    tokens = config.data.batch_size * config.data.seq_len
    return config.device == "cuda" or not is_large_matmul(tokens, dim, 3 * dim)


def _uses_cuda_graphs(config: RunConfig, gpus: int) -> bool:
    settings = config.distributed
    if config.device == "cpu":
        return False
    if settings.cuda_graphs != "auto":
        return settings.cuda_graphs
    # Anomaly detection reads from the device at each step.
    is_static = not settings.detect_anomaly and settings.float8_recipe is None
    return is_static and not settings.is_sharded(gpus)


def _fuses_pointwise(config: RunConfig) -> bool:
    wanted, model = config.distributed.fused_pointwise, config.model
    if not (model.is_gated or model.rotates_projections or model.norm_type == "rmsnorm"):
        return False  # there is no kernel for this model
    return config.device == "cuda" if wanted == "auto" else wanted


def _keeps_copies(config: RunConfig, gpus: int, dtype: Dtype) -> bool:
    settings, optim = config.distributed, config.optim
    if dtype != "bf16" or settings.is_sharded(gpus) or settings.float8_recipe is not None:
        return False
    has_kernel = optim.name == "adamw" and optim.fused and settings.fused_pointwise is not False
    # A kernel for each matrix: without a graph, launching them takes longer than they do.
    return has_kernel and _uses_cuda_graphs(config, gpus)


def _output_multiple(config: RunConfig, gpus: int) -> int:
    is_plain = config.device == "cuda" and not config.distributed.is_sharded(gpus)
    return OUTPUT_MULTIPLE if is_plain else 1


def _cpu_matmul(config: RunConfig, dtype: Dtype, machine: Machine) -> CpuMatmul:
    wanted = config.distributed.cpu_matmul
    if config.device == "cuda" or dtype != "fp32":
        return "torch"
    if config.distributed.tp_size > 1 or not machine.has_onednn:
        return "mkl"
    if wanted == "auto":
        return "onednn" if machine.mkl_is_slow else "mkl"
    return wanted


def _attention(config: RunConfig, gpus: int) -> str | None:
    settings = config.distributed
    if settings.attention != "auto":
        return settings.attention
    if config.device == "cpu":
        return "torch"  # torch's default depends on the shape alone
    is_usual = not settings.is_sharded(gpus) and settings.ac_mode == "none"
    if config.is_masked and is_usual and config.fits_flex:
        return "flex"  # skips what the mask hides; the others compute all of it
    return None
