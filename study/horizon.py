"""How far a run goes: a number of steps, of tokens, or what is compute-optimal."""

import math
import re

TOKENS_PER_PARAMETER = 20
"""Compute-optimal tokens for each parameter (Hoffmann et al. 2022, table 3)."""

CHINCHILLA = "chinchilla"

SIZES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}

PATTERN = re.compile(r"^(\d+(?:\.\d+)?) ?([KMBT]?) (steps|tokens)$")


def check_horizon(text: str) -> str:
    """Return a horizon as it is written; raise ValueError where it is none."""
    if text != CHINCHILLA and not PATTERN.match(text):
        raise ValueError(
            f"'{text}' is not a horizon; expected e.g. '500 steps', '10B tokens' or '{CHINCHILLA}'"
        )
    return text


def horizon_steps(horizon: str, params: int, tokens_per_step: int) -> int:
    """Return the optimizer steps that a model needs to reach a horizon, at least 1."""
    if horizon == CHINCHILLA:
        return math.ceil(TOKENS_PER_PARAMETER * params / tokens_per_step)
    found = PATTERN.match(check_horizon(horizon))
    assert found is not None
    amount = float(found[1]) * SIZES[found[2]]
    steps = amount if found[3] == "steps" else amount / tokens_per_step
    return max(1, math.ceil(steps))
