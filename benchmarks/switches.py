"""What each switch of a run's settings brings on this machine, one at a time.

    python benchmarks/switches.py [--only optim.fused]

A step as the settings have it by default and one with the switch the other way take turns in one
process; of each turn the ratio is taken, and its median and 10th and 90th percentile are printed:
x1.20 means that the step takes 1.20 times as long without what the default has. What belongs to a
whole process (freed memory, garbage, the thread that reads) is measured by runs of the trainer in
turns. Switches that only a GPU knows are named at the end.
"""

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.interleaved_steps import measure, ratio_text
from benchmarks.trainer_runs import settings, shape_of, train, write_text
from trainer import host
from trainer.config import RunConfig, merge, nest
from trainer.loop.learner import build_learner, decide
from trainer.loop.step import compute_step
from trainer.world import get_world


@dataclass(frozen=True)
class Switch:
    """A setting, as it is by default and the other way, and where the difference shows."""

    key: str
    default: Any
    other: Any
    shape: str = "nano"
    batch: tuple[int, int] = (8, 256)
    besides: tuple[tuple[str, Any], ...] = ()
    turns: int = 40


LARGE_VOCABULARY = (("data.tokenizer", {"name": "bytes", "n_words": 32768}),)
IN_TURNS = (
    Switch("distributed.cpu_matmul", "auto", "mkl"),
    Switch("distributed.cpu_matmul", "auto", "mkl", "mini"),
    Switch("distributed.fused_projections", True, False, "tiny", (1, 16), turns=400),
    Switch("distributed.fused_projections", False, True, "mini"),
    Switch("optim.fused", True, False, "tiny", (1, 16), turns=400),
    Switch("optim.fused", True, False),
    Switch("distributed.loss_chunk", 4096, 0, batch=(32, 256), besides=LARGE_VOCABULARY, turns=8),
    Switch("distributed.compile", True, False, "tiny", (1, 16), turns=400),
    Switch("distributed.compile", True, False),
    Switch("distributed.compile", True, False, "mini"),
    Switch("distributed.activation_checkpointing", "none", "selective"),
    Switch("distributed.activation_checkpointing", "none", "full"),
    Switch("distributed.model_dtype", "fp32", "bf16"),
    Switch("distributed.model_dtype", "fp32", "bf16", "mini"),
)
OF_A_PROCESS = (
    Switch("distributed.attention", "auto", "math"),
    Switch("distributed.keep_memory", True, False),
    Switch("distributed.keep_memory", True, False, "mini", (8, 256)),
    Switch("distributed.freeze_gc", True, False, "tiny", (1, 16), turns=400),
    Switch("data.load_async", True, False, "tiny", (1, 16), turns=400),
)
GPU_ONLY = ("cuda_graphs", "float8_recipe", "matmul_allow_tf32", "reduce_dtype (several GPUs)")
PROCESS_STEPS = {"tiny": 1500, "nano": 200, "mini": 60}


def main() -> None:
    parser = argparse.ArgumentParser(description="What each switch brings")
    parser.add_argument("--runs", type=int, default=5, help="turns of whole runs")
    parser.add_argument("--only", help="keys that hold this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    host.keep_freed_memory()
    print(f"{host.processor_name()}, 1 thread, torch {torch.__version__}")
    print("| setting | default | the other way | shape, batch | a step takes, the other way |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder)
        for switch in (*IN_TURNS, *OF_A_PROCESS):
            if options.only is not None and options.only not in switch.key:
                continue
            in_one = switch in IN_TURNS
            ratios = in_turns(switch, folder) if in_one else of_runs(switch, folder, options.runs)
            report(switch, ratios)
    print(f"\nOn a GPU alone: {', '.join(GPU_ONLY)}.")


def report(switch: Switch, ratios: list[float]) -> None:
    batch = " x ".join(str(size) for size in switch.batch)
    besides = "".join(f", {key}: {value}" for key, value in switch.besides)
    print(
        f"| `{switch.key}` | {switch.default} | {switch.other} | {switch.shape}, {batch}{besides} "
        f"| {ratio_text(ratios)} |",
        flush=True,
    )


def values_of(switch: Switch, value: Any, folder: Path) -> dict[str, Any]:
    """Return the settings of a run with a switch at a value."""
    steps = PROCESS_STEPS[switch.shape]
    values = settings(folder, shape_of(switch.shape), switch.batch, steps)
    for key, setting in (*switch.besides, (switch.key, value)):
        values = merge(values, nest(key, setting))
    return values


def in_turns(switch: Switch, folder: Path) -> list[float]:
    """Return the ratios of the step's time, the other way to the default."""
    values = {"default": switch.default, "other": switch.other}
    seconds = measure(
        {name: step_with(switch, value, folder) for name, value in values.items()}, switch.turns
    )
    gc.unfreeze()
    pairs = zip(seconds["other"], seconds["default"], strict=True)
    return [other_s / default_s for other_s, default_s in pairs]


def step_with(switch: Switch, value: Any, folder: Path) -> Callable[[], float]:
    config = RunConfig.model_validate(values_of(switch, value, folder))
    world = get_world(config.device)
    learner = build_learner(config, decide(config, world), world)
    shape = (1, config.data.batch_size, config.data.seq_len + 1)
    tokens = torch.randint(config.data.tokenizer.vocab_size, shape, device=world.device)
    return lambda: compute_step(learner, tokens)[0].item()


def of_runs(switch: Switch, folder: Path, runs: int) -> list[float]:
    """Return the ratios of the step's time of runs of the trainer, which take turns."""
    ratios = []
    for _ in range(runs):
        default_s, other_s = (
            run_with(switch, value, folder) for value in (switch.default, switch.other)
        )
        ratios.append(other_s / default_s)
    return ratios


def run_with(switch: Switch, value: Any, folder: Path) -> float:
    """Return the mean time of a step of a run, s: what happens now and then counts too."""
    one_thread = {"distributed": {"threads": 1}}
    _, records = train(merge(values_of(switch, value, folder), one_thread))
    steady = records[2:]
    steps = sum(record["time/interval_steps"] for record in steady)
    return sum(r["time/step_s"] * r["time/interval_steps"] for r in steady) / steps


if __name__ == "__main__":
    main()
