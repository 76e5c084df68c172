"""The effect of each performance setting on this machine, one at a time.

    python -m benchmarks.switches [--only optim.fused]

One process alternates a step with the default and one with the other value. Printed is the median
ratio of the turns, with the 10th and 90th percentile: x1.20 means that a step takes 1.20 times as
long with the other value. Settings of a whole process (allocator, garbage collection, loader
thread) are measured by alternating runs of the trainer. Settings for GPUs only are listed at the
end.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import command_line, run
from benchmarks.interleaved_steps import learner_step
from benchmarks.timing import alternate, quantile_text, ratios
from benchmarks.trainer_runs import machine_text, settings, shape_of, train, write_text
from study.command_line import whole
from trainer import host
from trainer.config import RunConfig
from trainer.layers import merge, nest


@dataclass(frozen=True)
class Switch:
    """A setting, its default, the other value, and a shape that shows the difference."""

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
GPU_ONLY = (
    *("cuda_graphs", "fused_pointwise", "float8_recipe", "matmul_allow_tf32"),
    "reduce_dtype (several GPUs)",
)
PROCESS_STEPS = {"tiny": 1500, "nano": 200, "mini": 60}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--runs", type=whole, default=5, help="pairs of whole runs")
    parser.add_argument("--only", help="only keys that contain this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    host.keep_freed_memory()
    print(f"1 thread, {machine_text()}")
    print(
        "| setting | default | other value | shape, batch | time of a step with the other value |"
    )
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder)
        for switch in (*IN_TURNS, *OF_A_PROCESS):
            if options.only is not None and options.only not in switch.key:
                continue
            if switch in IN_TURNS:
                report(switch, in_turns(switch, folder))
            else:
                report(switch, of_runs(switch, folder, options.runs))
    print(f"\nGPU only: {', '.join(GPU_ONLY)}.")


def report(switch: Switch, slowdowns: list[float]) -> None:
    batch = " x ".join(str(size) for size in switch.batch)
    besides = "".join(f", {key}: {value}" for key, value in switch.besides)
    print(
        f"| `{switch.key}` | {switch.default} | {switch.other} | {switch.shape}, {batch}{besides} "
        f"| {quantile_text(slowdowns)} |",
        flush=True,
    )


def values_of(switch: Switch, value: Any, folder: Path) -> dict[str, Any]:
    """Return the settings of a run with a value of the switch."""
    steps = PROCESS_STEPS[switch.shape]
    values = settings(folder, shape_of(switch.shape), switch.batch, steps)
    for key, setting in (*switch.besides, (switch.key, value)):
        values = merge(values, nest(key, setting))
    return values


def in_turns(switch: Switch, folder: Path) -> list[float]:
    """Return the ratios of the step time with the other value to that with the default."""
    values = {"default": switch.default, "other": switch.other}
    seconds = alternate(
        {name: step_with(switch, value, folder) for name, value in values.items()}, switch.turns
    )
    return ratios(seconds["other"], seconds["default"])


def step_with(switch: Switch, value: Any, folder: Path) -> Callable[[], float]:
    config = RunConfig.model_validate(values_of(switch, value, folder))
    shape = (config.data.batch_size, config.data.seq_len + 1)
    step = learner_step(config, torch.randint(config.data.tokenizer.vocab_size, shape))
    return lambda: step().item()  # waits for the device


def of_runs(switch: Switch, folder: Path, runs: int) -> list[float]:
    """Return the ratios of the step time of alternating runs of the trainer."""
    values = (switch.default, switch.other)
    pairs = [[run_with(switch, value, folder) for value in values] for _ in range(runs)]
    return [other_s / default_s for default_s, other_s in pairs]


def run_with(switch: Switch, value: Any, folder: Path) -> float:
    """Return the mean step time of a run, s: the mean includes rare pauses."""
    one_thread = {"distributed": {"threads": 1}}
    _, records = train(merge(values_of(switch, value, folder), one_thread))
    steady = records[2:]
    steps = sum(record["time/interval_steps"] for record in steady)
    return sum(r["time/step_s"] * r["time/interval_steps"] for r in steady) / steps


if __name__ == "__main__":
    run(main)
