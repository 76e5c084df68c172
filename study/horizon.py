"""Horizons: the length of a run in steps, in tokens, or compute-optimal."""

import math
import re

TOKENS_PER_PARAMETER = 20
"""Compute-optimal tokens per parameter (Hoffmann et al. 2022, table 3)."""

CHINCHILLA = "chinchilla"

LONGEST = 40
"""Most characters of a horizon."""

SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}

HORIZON_PATTERN = re.compile(r"^(\d+(?:\.\d+)?) ?([KMBT]?) (steps|tokens)$")


def check_horizon(text: str) -> str:
    """Return `text` unchanged; raise ValueError if it is not a horizon."""
    if text != CHINCHILLA and not HORIZON_PATTERN.match(text):
        raise ValueError(
            f"'{text}' is not a horizon; expected e.g. '500 steps', '10B tokens' or '{CHINCHILLA}'"
        )
    if len(text) > LONGEST:
        raise ValueError(
            f"'{text[:LONGEST]}...' is too long; expected at most {LONGEST} characters"
        )
    return text


def horizon_steps(horizon: str, params: int, tokens_per_step: int) -> int:
    """Return the optimizer steps to a horizon, at least 1."""
    if horizon == CHINCHILLA:
        return math.ceil(TOKENS_PER_PARAMETER * params / tokens_per_step)
    found = HORIZON_PATTERN.match(check_horizon(horizon))
    assert found is not None
    amount = float(found[1]) * SUFFIXES[found[2]]
    steps = amount if found[3] == "steps" else amount / tokens_per_step
    return max(1, math.ceil(steps))
