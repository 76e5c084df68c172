"""What a step costs the CPU beside arithmetic, alone and under DDP.

    python benchmarks/host_time.py [--compile]
    torchrun --standalone --nproc_per_node=2 benchmarks/host_time.py [--compile]

The model has 8 layers of width 16, next to no arithmetic. In each process a step of our loop, as
`python -m trainer` takes it with data, learning rate, records and stop requests, and one of a
plain PyTorch loop (plain_llama.py, torch.optim.AdamW, LambdaLR, DistributedDataParallel) take
turns. Printed: the milliseconds of both, the ratio of each turn as median with the 10th and 90th
percentile, and the share of our step that is outside of model, optimizer and communication.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.interleaved_steps import WARM_UP, measure, ratio_text
from benchmarks.plain_llama import PlainLlama
from benchmarks.trainer_runs import SOURCE, TINY, settings, write_text
from trainer import host
from trainer.config import BYTE_VOCABULARY, ModelConfig, RunConfig
from trainer.loop import train
from trainer.loop.learner import decide
from trainer.loop.session import open_session
from trainer.loop.step import train_step
from trainer.loop.stop_signal import StopSignal
from trainer.startup import Startup
from trainer.tokens.shards import open_shards
from trainer.world import World, agree, get_world, mean_over_ranks, process_group

BATCH, LENGTH = 1, 16
LOG_EVERY = 10


def main() -> None:
    parser = argparse.ArgumentParser(description="Host time of a step")
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    host.keep_freed_memory()
    world = get_world("cpu")
    with process_group(world, timeout_s=60) as wait, tempfile.TemporaryDirectory() as own:
        wait()
        folder = Path(shared_text(own, world))
        with ours(folder, options, world) as (step, inside):
            other = plain(folder, options, world)
            seconds = measure({"ours": step, "plain PyTorch": other}, options.turns)
        if world.is_main:
            show(options, world, seconds, inside[-options.turns :])
        agree(0, world)  # rank 0's folder is used by all


def shared_text(folder: str, world: World) -> str:
    """Return rank 0's folder, where it has written a text."""
    if world.is_main:
        write_text(Path(folder))
    box = [folder]
    if world.size > 1:
        torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


@contextlib.contextmanager
def ours(
    folder: Path, options: argparse.Namespace, world: World
) -> Iterator[tuple[Callable[[], None], list[float]]]:
    """Yield what takes a step of our loop, and the seconds of each in model, optimizer, sums."""
    config = RunConfig.model_validate(
        settings(
            folder,
            TINY,
            (BATCH, LENGTH),
            options.turns + WARM_UP,
            distributed={"compile": options.compile},
            logging={"freq": LOG_EVERY},
        )
    )
    if world.is_main:
        Path(config.dump_dir).mkdir()
        open_shards(config.data)
    agree(0, world)
    shards = open_shards(config.data)
    session = open_session(config, decide(config, world), Startup(), world, shards, "start")
    stop, steps = StopSignal(world), iter(range(1, config.steps + 1))
    inside: list[float] = []

    def timed(function: Callable[..., Any], starts_step: bool) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                spent = time.perf_counter() - start
                if starts_step:
                    inside.append(spent)
                else:
                    inside[-1] += spent

        return call

    train.train_step = train.first_step = timed(train_step, starts_step=True)
    train.mean_over_ranks = timed(mean_over_ranks, starts_step=False)
    train.begin(session)
    silence = contextlib.redirect_stdout(folder.joinpath(f"log.{world.rank}").open("w"))
    try:
        with silence:
            yield lambda: _check(train.take_step(session, stop, next(steps))), inside
    finally:
        stop.close()
        session.close()


def _check(code: int | None) -> None:
    assert code is None, "the run has ended"


def plain(folder: Path, options: argparse.Namespace, world: World) -> Callable[[], None]:
    """Return what takes a step of a loop as people write it."""
    text = next((folder / "data" / SOURCE).glob("*.chunk.*"))
    tokens = np.frombuffer(text.read_bytes(), np.uint8)
    draw = np.random.default_rng(world.rank)
    torch.manual_seed(0)
    shape = ModelConfig.model_validate(TINY)
    model: nn.Module = PlainLlama(
        BYTE_VOCABULARY, shape.dim, shape.n_layers, shape.n_heads, shape.ffn_hidden, LENGTH
    )
    parameters = list(model.parameters())
    if options.compile:
        model = torch.compile(model)
    if world.size > 1:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 100))
    log = folder.joinpath(f"plain.{world.rank}.jsonl").open("w")
    taken = 0

    def step() -> None:
        nonlocal taken
        starts = draw.integers(0, len(tokens) - LENGTH, BATCH)
        rows = np.stack([tokens[at : at + LENGTH + 1] for at in starts]).astype(np.int64)
        window = torch.from_numpy(rows)
        optimizer.zero_grad(set_to_none=True)
        loss = model(window[:, :-1], window[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        taken += 1
        if taken % LOG_EVERY == 0:
            log.write(json.dumps({"step": taken, "loss": loss.item()}) + "\n")
            log.flush()

    return step


def show(
    options: argparse.Namespace, world: World, seconds: dict[str, list[float]], inside: list[float]
) -> None:
    print(
        f"8 layers of width 16, {world.size} process(es), "
        f"{'compiled' if options.compile else 'eager'}, {options.turns} turns, "
        f"{host.processor_name()}, torch {torch.__version__}"
    )
    pairs = zip(seconds["ours"], seconds["plain PyTorch"], strict=True)
    ratios = [own / other for own, other in pairs]
    for name in ("ours", "plain PyTorch"):
        print(f"{name:16} {1e3 * statistics.median(seconds[name]):8.3f} ms a step")
    print(f"ours takes {ratio_text(ratios)} of plain PyTorch")
    outside = [whole - within for whole, within in zip(seconds["ours"], inside, strict=True)]
    # Sums: what is due every tenth step counts for its part.
    share = sum(outside) / sum(seconds["ours"])
    typical = statistics.median(outside) / statistics.median(seconds["ours"])
    print(f"outside of model, optimizer, communication: {share:.1%} (median step {typical:.1%})")


if __name__ == "__main__":
    main()
