"""The command: python -m trainer.commands.autotune config=run.yaml key=value ... > overrides.yaml

Finds the micro-batch size, activation checkpointing and compilation with the most tokens per second
in the memory of one GPU, and prints them as overrides. The global batch stays the same: smaller
micro-batches mean more gradient accumulation. It times steps on random tokens in one process, so
communication is left out, which hardly changes the best settings.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trainer.commands.tools import run_command, set_up_alone
from trainer.config import ActivationCheckpointing, RunConfig
from trainer.layers import merge
from trainer.loop.first_steps import prepare_steps
from trainer.loop.learner import Learner, build_learner, resolve_choices
from trainer.loop.step import train_step
from trainer.problems import ConfigError
from trainer.settings import validate
from trainer.world import World
from trainer.yaml_files import dump_yaml

AC_MODES: tuple[ActivationCheckpointing, ...] = ("selective", "full")
"""Activation checkpointing modes that save memory, the faster first."""

BUDGET_S = 120.0
"""Seconds after which nothing more is tried."""

WARM_UP, STEPS = 2, 5
"""Steps between those of `Learner.warm_up_steps` and the timed ones, of which the median counts."""

WORSE = 0.97
"""A micro-batch below this fraction of the best speed ends the search among smaller ones."""


@dataclass(frozen=True)
class Setting:
    """One candidate."""

    batch_size: int
    """Sequences of a micro-batch."""
    micro_batches: int
    """Micro-batches of a step."""
    ac_mode: ActivationCheckpointing
    compiled: bool

    def overrides(self) -> dict[str, Any]:
        """Return it as keys of run.yaml."""
        return {
            "data": {"batch_size": self.batch_size},
            "grad_acc_steps": self.micro_batches,
            "distributed": {
                "compile": self.compiled,
                "activation_checkpointing": self.ac_mode,
                "selective_activation_checkpointing": False,
            },
        }

    def __str__(self) -> str:
        return (
            f"batch {self.batch_size} x {self.micro_batches}, "
            f"activation checkpointing {self.ac_mode}, {'compiled' if self.compiled else 'eager'}"
        )


@dataclass(frozen=True)
class Timing:
    """The measured times of a setting."""

    step_s: float
    """Median step time, s."""
    first_s: float
    """Time of the first step, including compilation, s."""


Measure = Callable[[Setting], Timing | None]
"""Times a setting; None if it does not fit into memory."""


def search(sequences: int, steps: int, can_compile: bool, measure: Measure) -> Setting | None:
    """Return the best setting for a run of `steps` of `sequences` each; None if none fits.

    Tries micro-batches from the largest down while they get faster, activation checkpointing if it
    makes room for larger ones, then compiles the best if the run is long enough to repay it.
    """
    sizes = [size for size in range(sequences, 0, -1) if sequences % size == 0]
    found: dict[Setting, Timing] = {}
    fits = _sweep(sizes, sequences, "none", measure, found)
    for ac_mode in AC_MODES:
        # Activation checkpointing only pays off if it makes room for a larger micro-batch.
        larger = [size for size in sizes if size > fits]
        fits = max(fits, _sweep(larger, sequences, ac_mode, measure, found))
    if not found:
        return None
    best = min(found, key=lambda setting: found[setting].step_s)
    if not can_compile:
        return best
    compiled = replace(best, compiled=True)
    timing = measure(compiled)
    if timing is None:
        return best
    saved_s = (found[best].step_s - timing.step_s) * steps
    return compiled if saved_s > timing.first_s - found[best].first_s else best


def _sweep(
    sizes: Sequence[int],
    sequences: int,
    ac_mode: ActivationCheckpointing,
    measure: Measure,
    found: dict[Setting, Timing],
) -> int:
    """Measure micro-batches, the largest first; return the largest that fits, or 0."""
    largest, best_s = 0, float("inf")
    for size in sizes:
        setting = Setting(size, sequences // size, ac_mode, compiled=False)
        timing = measure(setting)
        if timing is None:
            continue
        found[setting] = timing
        largest = max(largest, size)
        if timing.step_s > best_s / WORSE:
            break
        best_s = min(best_s, timing.step_s)
    return largest


class Clock:
    """Measures settings of a run on this process's device, within a time budget."""

    def __init__(self, config: RunConfig, world: World) -> None:
        self._config, self._world = config, world
        self._end = time.monotonic() + BUDGET_S

    def __call__(self, setting: Setting) -> Timing | None:
        """Time a setting, and print the result on stderr."""
        if time.monotonic() > self._end:
            print(f"{setting}: skipped, the time is up", file=sys.stderr, flush=True)
            return None
        try:
            timing = self._time(setting)
        except torch.OutOfMemoryError:
            timing = None
        if self._world.device.type == "cuda":
            gc.collect()  # a compiled model is part of cycles
            torch.cuda.empty_cache()
        if timing is None:
            print(f"{setting}: does not fit", file=sys.stderr, flush=True)
            return None
        tokens = self._config.tokens_per_step(1)
        print(
            f"{setting}: {tokens / timing.step_s:,.0f} tokens/s, first step {timing.first_s:.1f} s",
            file=sys.stderr,
            flush=True,
        )
        return timing

    def _time(self, setting: Setting) -> Timing:
        learner, tokens = self._open(setting)
        first_s, *rest = self._seconds(learner, tokens)
        learner.graph = None  # its memory is free for the next setting
        return Timing(statistics.median(rest[-STEPS:]), first_s)

    def _open(self, setting: Setting) -> tuple[Learner, Tensor]:
        values = merge(self._config.model_dump(), setting.overrides())
        config = validate(RunConfig, values, "autotune")
        torch.manual_seed(0)
        choices = resolve_choices(config, self._world)  # some depend on what is tried
        learner = build_learner(config, choices, self._world)
        prepare_steps(learner, config)
        shape = (setting.micro_batches, setting.batch_size, config.data.seq_len + 1)
        tokens = torch.randint(config.data.tokenizer.vocab_size, shape, device=self._world.device)
        return learner, tokens

    def _seconds(self, learner: Learner, tokens: Tensor) -> Iterator[float]:
        for _ in range(learner.warm_up_steps + WARM_UP + STEPS):
            start = time.perf_counter()
            loss, _ = train_step(learner, tokens)
            loss.item()  # waits for the device
            yield time.perf_counter() - start


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    purpose = "Print the fastest micro-batch, activation checkpointing and compilation of a run."
    return run_command("autotune", purpose, arguments, lambda config: dump_yaml(tune(config)))


def tune(config: RunConfig) -> dict[str, Any]:
    """Return the best overrides for a run. Raises ConfigError if nothing fits."""
    world, _ = set_up_alone(config, "autotune")
    can_compile = config.distributed.compile is not False
    sequences = config.data.batch_size * config.grad_acc_steps
    best = search(sequences, config.steps, can_compile, Clock(config, world))
    if best is None:
        problem = "not even one sequence fits; reduce data.seq_len or the model"
        raise ConfigError("autotune", [problem])
    return best.overrides()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
