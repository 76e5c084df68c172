"""A training step of ours compared with plain PyTorch and transformers, on this machine.

    python -m benchmarks.interleaved_steps [--compile] [--shape mini] [--turns 30] [--device cpu]

One process alternates single steps of three implementations: ours, plain PyTorch (plain_llama.py),
and transformers' Llama, the last two with torch.optim.AdamW; same shape, batch, float32, on the GPU
if there is one. Steps are launched kernel by kernel, without CUDA graphs. Printed are medians, and
the ratio to ours of each turn, as median with the 10th and 90th percentile. `tiny` has next to no
arithmetic: its step is CPU overhead.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import command_line, run
from benchmarks.plain_llama import PlainLlama
from benchmarks.timing import alternate, quantile_text, ratios
from benchmarks.trainer_runs import device, machine_text, settings, shape_names, shape_of
from study.command_line import whole
from trainer import host
from trainer.config import BYTE_VOCABULARY, ModelConfig, RunConfig
from trainer.loop.learner import build_learner, resolve_choices
from trainer.loop.step import compute_step
from trainer.world import get_world

Step = Callable[[], Tensor]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--shape",
        default="mini",
        choices=shape_names(),
        help="a model of config/models.yaml, or tiny",
    )
    parser.add_argument("--batch-size", type=whole, default=8)
    parser.add_argument("--seq-len", type=whole, default=256)
    parser.add_argument("--turns", type=whole, default=30)
    parser.add_argument("--threads", type=whole, default=1)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default=device(), choices=("cpu", "cuda"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    host.keep_freed_memory()
    model = ModelConfig.model_validate(shape_of(options.shape))
    size = (options.batch_size, options.seq_len + 1)
    window = torch.randint(BYTE_VOCABULARY, size, device=options.device)
    steps = {name: build(model, window, options.compile) for name, build in CONTENDERS.items()}
    show(options, alternate(steps, options.turns))


def show(options: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    tokens = options.batch_size * options.seq_len
    print(
        f"{options.shape}, {options.batch_size} x {options.seq_len} tokens, "
        f"{'compiled' if options.compile else 'eager'}, {options.threads} thread(s), "
        f"{machine_text(options.device)}"
    )
    print(f"{'':16} {'tokens/s':>10} {'ms a step':>10}   ours is faster by (10% to 90%)")
    for name, values in seconds.items():
        middle, faster = statistics.median(values), quantile_text(ratios(values, seconds["ours"]))
        print(f"{name:16} {tokens / middle:10,.0f} {1e3 * middle:10.2f}   {faster}")


def ours(shape: ModelConfig, window: Tensor, compiled: bool) -> Step:
    batch = (window.shape[0], window.shape[1] - 1)
    changes = {
        "device": window.device.type,
        "distributed": {"compile": compiled, "cuda_graphs": False},
    }
    values = settings(Path("unused"), shape.model_dump(), batch, 1, **changes)
    return learner_step(RunConfig.model_validate(values), window)


def learner_step(config: RunConfig, window: Tensor) -> Step:
    """Return a step of ours on one micro-batch (B, T + 1), with the settings of a run."""
    world = get_world(config.device)
    learner = build_learner(config, resolve_choices(config, world), world)
    tokens = window[None].to(world.device)
    return lambda: compute_step(learner, tokens)[0]


def plain(shape: ModelConfig, window: Tensor, compiled: bool) -> Step:
    model = plain_model(shape, window.shape[1] - 1).to(window.device)
    return usual_step(torch.compile(model) if compiled else model, window[:, :-1], window[:, 1:])


def plain_model(shape: ModelConfig, length: int) -> nn.Module:
    return PlainLlama(
        BYTE_VOCABULARY, shape.dim, shape.n_layers, shape.n_heads, shape.ffn_hidden, length
    )


def transformers_llama(shape: ModelConfig, window: Tensor, compiled: bool) -> Step:
    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=BYTE_VOCABULARY,
            hidden_size=shape.dim,
            intermediate_size=shape.ffn_hidden,
            num_hidden_layers=shape.n_layers,
            num_attention_heads=shape.n_heads,
            max_position_embeddings=window.shape[1],
            use_cache=False,
        )
    ).to(window.device)
    inner = torch.compile(llama) if compiled else llama

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.llama = llama

        def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
            return inner(input_ids=tokens, labels=targets, shift_labels=targets).loss

    return usual_step(Loss(), window[:, :-1], window[:, 1:].contiguous())


def usual_step(model: nn.Module, tokens: Tensor, targets: Tensor) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = model(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


CONTENDERS = {"ours": ours, "plain PyTorch": plain, "transformers": transformers_llama}
"""Name -> what builds its step, from a shape, a window (B, T + 1) and whether to compile."""


if __name__ == "__main__":
    run(main)
