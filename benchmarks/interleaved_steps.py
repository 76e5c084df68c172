"""A training step of ours beside those that people would write instead, on this CPU.

    python benchmarks/interleaved_steps.py [--compile] [--shape mini] [--turns 30]

In one process the contenders take a step in turns: ours, plain PyTorch (plain_llama.py),
transformers' Llama with torch.optim.AdamW; same shape, batch, float32. Of each turn the ratio to
ours is taken; printed are medians with the 10th and 90th percentile. `tiny` has next to no
arithmetic: its step is the time of the host.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.plain_llama import PlainLlama
from benchmarks.trainer_runs import device, shape_of
from trainer import host
from trainer.config import BYTE_VOCABULARY, ModelConfig, RunConfig
from trainer.loop.learner import build_learner, decide
from trainer.loop.step import compute_step
from trainer.world import get_world

WARM_UP = 5

Step = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description="Steps of contenders in turns")
    parser.add_argument("--shape", default="mini", help="a name of config/models.yaml, or tiny")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    host.keep_freed_memory()
    model = ModelConfig.model_validate(shape_of(options.shape))
    window = torch.randint(BYTE_VOCABULARY, (options.batch_size, options.seq_len + 1))
    steps = {
        "ours": ours(model, window, options.compile),
        "plain PyTorch": plain(model, window, options.compile),
        "transformers": transformers_llama(model, window, options.compile),
    }
    show(options, measure(steps, options.turns))


def measure(steps: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Return the seconds of each step of each contender, which take turns."""
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    gc.collect()
    gc.freeze()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def show(options: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    tokens = options.batch_size * options.seq_len
    print(
        f"{options.shape}, {options.batch_size} x {options.seq_len} tokens, "
        f"{'compiled' if options.compile else 'eager'}, {options.threads} thread(s), "
        f"{host.processor_name()}, torch {torch.__version__}"
    )
    print(f"{'':16} {'tokens/s':>10} {'ms a step':>10}   ours is faster by (10% to 90%)")
    for name, values in seconds.items():
        ratios = [other / own for other, own in zip(values, seconds["ours"], strict=True)]
        middle = statistics.median(values)
        print(f"{name:16} {tokens / middle:10,.0f} {1e3 * middle:10.2f}   {ratio_text(ratios)}")


def ratio_text(ratios: list[float]) -> str:
    """Return the median, and the 10th and 90th percentile."""
    low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
    return f"x{middle:.2f} ({low:.2f} to {high:.2f})"


def ours(shape: ModelConfig, window: Tensor, compiled: bool) -> Step:
    config = RunConfig(
        dump_dir="unused",
        device=device(),
        steps=1,
        model=shape,
        optim={"lr": 1e-3},
        distributed={"model_dtype": "fp32"},
        data={
            "root_dir": "unused",
            "sources": {"unused": 1.0},
            "batch_size": window.shape[0],
            "seq_len": window.shape[1] - 1,
        },
    )
    world = get_world(config.device)
    choices = replace(decide(config, world), compiled=compiled)
    learner = build_learner(config, choices, world)

    def step() -> Tensor:
        loss, _ = compute_step(learner, window[None])
        return loss

    return step


def plain(shape: ModelConfig, window: Tensor, compiled: bool) -> Step:
    model = PlainLlama(
        BYTE_VOCABULARY,
        shape.dim,
        shape.n_layers,
        shape.n_heads,
        shape.ffn_hidden,
        window.shape[1] - 1,
    )
    return usual_step(torch.compile(model) if compiled else model, window[:, :-1], window[:, 1:])


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
    )
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


if __name__ == "__main__":
    main()
