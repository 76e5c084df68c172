"""How far a run goes: steps, tokens or what is compute-optimal, and what it does on the way."""

import math
import re
from typing import TYPE_CHECKING

from trainer.optimizers import OPTIMIZERS

if TYPE_CHECKING:  # study files are read with check_horizon, and cells are made of study files
    from study.grid import Cell

TOKENS_PER_PARAMETER = 20
"""Compute-optimal tokens for each parameter (Hoffmann et al. 2022, table 3)."""

CHINCHILLA = "chinchilla"

SIZES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}

PATTERN = re.compile(r"^(\d+(?:\.\d+)?) ?([KMBT]?) (steps|tokens)$")


def check_horizon(text: str) -> str:
    """Return a horizon as it is written; raise ValueError where it is none."""
    if text != CHINCHILLA and not PATTERN.match(text):
        raise ValueError(
            f"'{text}' is no horizon; expected such as '500 steps', '10B tokens' or '{CHINCHILLA}'"
        )
    return text


def horizon_steps(horizon: str, cell: "Cell") -> int:
    """Return the optimizer steps that a cell needs to reach a horizon, at least 1."""
    if horizon == CHINCHILLA:
        tokens = TOKENS_PER_PARAMETER * cell.params
        return math.ceil(tokens / cell.tokens_per_step)
    found = PATTERN.match(check_horizon(horizon))
    assert found is not None
    amount = float(found[1]) * SIZES[found[2]]
    steps = amount if found[3] == "steps" else amount / cell.tokens_per_step
    return max(1, math.ceil(steps))


def count_saves(cell: "Cell", steps: int) -> int:
    """Return how often a run saves in `steps` steps: at each period, and at its end."""
    checkpoint = cell.run.checkpoint
    if checkpoint is None:
        return 0
    periods = [save.every for save in (checkpoint.dump, checkpoint.eval) if save.every]
    # A step that is due for both saves once.
    due = sum(steps // period for period in periods)
    if len(periods) == 2:
        due -= steps // math.lcm(*periods)
    ends_with_one = any(steps % period == 0 for period in periods)
    return due + (0 if ends_with_one else 1)


def count_evaluations(cell: "Cell", steps: int) -> int:
    """Return how often a run computes its validation loss in `steps` steps."""
    run = cell.run
    if run.eval is None:
        return 0
    every = run.checkpoint.eval.every if run.checkpoint else None
    if not every:
        return 1
    return steps // every + (1 if steps % every else 0)


def rest_terms(cell: "Cell", steps: int, step_s: float) -> dict[str, float]:
    """Return what a run does beside its start-up and its steps, s at nominal rates.

    saves: at 1 GB/s. evaluations: a third of the time that a step takes for as many tokens, as
    they go forward only. slow steps: 1% of the steps' time, for the mean above the median. end:
    1 s.
    """
    run = cell.run
    saved = OPTIMIZERS[run.optim.name].checkpoint_bytes * cell.params / 1e9
    sequences = (run.eval.validation.max_sequences if run.eval else None) or 0
    evaluation = sequences * run.data.seq_len / cell.tokens_per_step * step_s / 3
    return {
        "saves": count_saves(cell, steps) * saved,
        "evaluations": count_evaluations(cell, steps) * evaluation,
        "slow steps": 0.01 * steps * step_s,
        "end": 1.0,
    }
