"""CPU overhead of a step beyond arithmetic, in one process and with DDP.

    python -m benchmarks.host_time [--compile] [--device cpu]
    torchrun --standalone --nproc_per_node=2 -m benchmarks.host_time [--compile]

The model has 8 layers of width 16, next to no arithmetic, on the GPU if there is one; neither loop
uses a CUDA graph. Each process alternates a step of our loop, as `python -m trainer` takes it with
data, learning rate, records and stop requests, and one of a plain PyTorch loop (plain_llama.py,
torch.optim.AdamW, LambdaLR, DistributedDataParallel).
Printed: the milliseconds of both; the ratio of each turn, as median with the 10th and 90th
percentile; and the share of our step outside of model, optimizer and gradient communication, which
is the time not spent in compute_step. It includes the small all-reduce of each record and of the
stop requests.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks import command_line, run
from benchmarks.interleaved_steps import plain_model
from benchmarks.timing import WARM_UP, alternate, quantile_text, ratios, seconds
from benchmarks.trainer_runs import SOURCE, TINY, device, machine_text, settings, write_text
from study.command_line import whole
from trainer import host
from trainer.collectives import barrier, share
from trainer.config import ModelConfig, RunConfig
from trainer.folder.run_folder import Decision
from trainer.loop.learner import Learner, resolve_choices
from trainer.loop.session import open_session
from trainer.loop.step import compute_step
from trainer.loop.stop_signal import StopSignal
from trainer.loop.summary import open_journal
from trainer.loop.train import begin, take_step
from trainer.startup import Startup
from trainer.tokens.texts import open_texts
from trainer.world import World, get_world, process_group

BATCH, LENGTH = 1, 16
LOG_EVERY = 10


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--turns", type=whole, default=1000)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default=device(), choices=("cpu", "cuda"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    host.keep_freed_memory()
    world = get_world(options.device, timeout_s=60)
    with process_group(world) as wait, tempfile.TemporaryDirectory() as own:
        wait()
        folder = Path(shared_corpus(own, world))
        with ours(folder, options, world) as (step, inside):
            other = plain(folder, options, world)
            times = alternate({"ours": step, "plain PyTorch": other}, options.turns)
        if world.is_main:
            show(options, world, times, inside[-options.turns :])
        barrier(world)  # all ranks use rank 0's folder


def shared_corpus(folder: str, world: World) -> str:
    """Write the corpus on rank 0; return rank 0's folder."""
    if world.is_main:
        write_text(Path(folder))
    return share(folder, world)


@contextlib.contextmanager
def ours(
    folder: Path, options: argparse.Namespace, world: World
) -> Iterator[tuple[Callable[[], None], list[float]]]:
    """Yield a step of our loop, and the list of the seconds that each has spent in compute_step."""
    changes = {
        "device": options.device,
        "distributed": {"compile": options.compile, "cuda_graphs": False},
        "logging": {"freq": LOG_EVERY},
    }
    values = settings(folder, TINY, (BATCH, LENGTH), options.turns + WARM_UP, **changes)
    config = RunConfig.model_validate(values)
    if world.is_main:
        Path(config.dump_dir).mkdir()
        open_texts(config)
    barrier(world)
    texts, decision = open_texts(config), Decision("start")
    session = open_session(
        config, resolve_choices(config, world), Startup(), world, texts, decision
    )
    open_journal(session)
    step = TimedStep(session.learner)
    session.learner.graph = step
    stop, numbers = StopSignal(world), iter(range(1, config.steps + 1))
    begin(session)
    silence = contextlib.redirect_stdout(folder.joinpath(f"log.{world.rank}").open("w"))
    try:
        with silence:
            yield lambda: _check(take_step(session, stop, next(numbers))), step.seconds
    finally:
        stop.close()
        session.close()


class TimedStep:
    """A learner's step, in place of a CUDA graph, that notes the time of each call."""

    def __init__(self, learner: Learner) -> None:
        self.learner, self.seconds = learner, list[float]()

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        def step() -> None:
            self.result = compute_step(self.learner, tokens)

        self.seconds.append(seconds(step))
        return self.result


def _check(code: int | None) -> None:
    assert code is None, "the run has ended"


def plain(folder: Path, options: argparse.Namespace, world: World) -> Callable[[], None]:
    """Return a step of a loop as it is usually written."""
    text = next((folder / "data" / SOURCE).glob("*.chunk.*"))
    tokens = np.frombuffer(text.read_bytes(), np.uint8)
    draw = np.random.default_rng(world.rank)
    torch.manual_seed(0)
    model = plain_model(ModelConfig.model_validate(TINY), LENGTH).to(world.device)
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
        window = torch.from_numpy(rows).to(world.device)
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
    options: argparse.Namespace, world: World, times: dict[str, list[float]], inside: list[float]
) -> None:
    print(
        f"8 layers of width 16, {world.size} process(es), "
        f"{'compiled' if options.compile else 'eager'}, {options.turns} turns, "
        f"{machine_text(options.device)}"
    )
    for name, values in times.items():
        print(f"{name:16} {1e3 * statistics.median(values):8.3f} ms a step")
    relative = quantile_text(ratios(times["ours"], times["plain PyTorch"]))
    print(f"ours takes {relative} of plain PyTorch")
    outside = [whole - within for whole, within in zip(times["ours"], inside, strict=True)]
    # Sums: what happens only every tenth step counts for its part.
    share = sum(outside) / sum(times["ours"])
    typical = statistics.median(outside) / statistics.median(times["ours"])
    name = "outside of model, optimizer, gradient communication"
    print(f"{name}: {share:.1%} (median step {typical:.1%})")


if __name__ == "__main__":
    run(main)
