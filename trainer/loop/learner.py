"""The model, its optimizer and how they run: all that a training step needs but data.

Used by a run (session.py), by autotune.py and by precompile.py.
"""

from dataclasses import dataclass

import torch
from torch import nn

from trainer import host
from trainer.config import RunConfig
from trainer.execution import compiling, float8, kernels, memory
from trainer.execution.attention_choice import choose_attention
from trainer.execution.choices import Choices, choose, find_machine
from trainer.execution.graph import Step, leave_default_stream
from trainer.execution.layout import parallelize
from trainer.execution.precision import DTYPES, set_arithmetic
from trainer.model.masks import DocumentBorder
from trainer.model.model import Transformer
from trainer.model.optimizer import Optimizer, build_optimizer
from trainer.tokens.build_tokenizer import build_tokenizer
from trainer.world import World


@dataclass
class Learner:
    """A model in training on this process's device."""

    choices: Choices
    """The settings with every `auto` resolved."""
    device: torch.device
    model: Transformer
    trained: nn.Module
    """The model, wrapped in DDP if need be: its forward pass trains."""
    optimizer: Optimizer
    is_sharded: bool
    """Weights are sharded over processes."""
    batch_shape: tuple[int, int]
    """Sequences of a micro-batch, and tokens per sequence."""
    graph: Step | None = None
    """What takes a step instead of `compute_step`, such as a CUDA graph."""
    warm_up_steps: int = 1
    """Steps of an attempt until all that follow are taken in the same way."""
    forward_s: float = 0.0
    """Time of this process in forward passes since the last record, s."""


def set_up_process(config: RunConfig, world: World) -> Choices:
    """Apply the process-wide settings of torch and the OS; return what the run will use.

    Raises ConfigError.
    """
    settings = config.distributed
    kernels.check(config)
    float8.check(config)
    memory.check(config, world)
    compiling.check(config.distributed.compile_options, "run")
    choices = resolve_choices(config, world)
    torch.set_num_threads(choices.threads)
    if settings.keep_memory and config.device == "cpu":
        host.keep_freed_memory()
    set_arithmetic(settings)
    compiling.use_cache(settings.compile_cache)
    compiling.use_workers(choices.threads)
    if choices.cuda_graphs:
        leave_default_stream()
    return choices


def resolve_choices(config: RunConfig, world: World) -> Choices:
    """Return what a run uses on this machine for each `auto`."""
    machine = find_machine(world.local_size, torch.backends.mkldnn.is_available())
    return choose(config, world.size, machine)


def build_model(
    config: RunConfig, choices: Choices, device: torch.device, draws: bool = True
) -> Transformer:
    """Return the model on the device, without communication.

    `draws`: with initial weights; otherwise they are yet to be loaded.
    """
    model = Transformer(
        config.model,
        config.data.tokenizer.vocab_size,
        config.data.seq_len,
        _border(config),
        fused=choices.fused_projections,
        loss_chunk=choices.loss_chunk,
        residual_dtype=DTYPES["bf16"] if choices.residual_dtype == "bf16" else None,
        output_multiple=choices.output_multiple,
    )
    if draws:
        model.init_weights(config.weights_seed)
    for layer in model.layers:
        layer.ac_mode = config.distributed.ac_mode  # type: ignore[assignment]
    return model.to(device)


def _border(config: RunConfig) -> DocumentBorder | None:
    if not config.data.document_mask:
        return None
    tokenizer = build_tokenizer(config.data.tokenizer)
    opens = config.data.add_bos
    return DocumentBorder(tokenizer.bos if opens else tokenizer.eos, opens)


def build_learner(
    config: RunConfig,
    choices: Choices,
    world: World,
    model: Transformer | None = None,
    kept_attention: str | None = None,
) -> Learner:
    """Return a model with initial weights and its optimizer, distributed over the processes.

    `model` is that of `build_model`, if already built; `kept_attention` the attention kernel that a
    resumed run has used. Raises ConfigError.
    """
    if model is None:
        model = build_model(config, choices, world.device)
    choices = choose_attention(config, choices, world, kept_attention)
    kernels.use(choices, model)
    compiling.tag_cache(world.device)
    float8.convert(model, config.distributed, world.device)
    return Learner(
        choices=choices,
        device=world.device,
        model=model,
        trained=parallelize(model, config.distributed, choices, world),
        optimizer=build_optimizer(model, config.optim),
        is_sharded=config.distributed.is_sharded(world.size),
        batch_shape=(config.data.batch_size, config.data.seq_len),
    )
