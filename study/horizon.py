"""The length of a run: horizons of the time table, and lengths as an axis of the grid."""

import math
import re
from fractions import Fraction
from typing import Any

from trainer.kinds import check_number
from trainer.yaml_files import shorten

TOKENS_PER_PARAMETER = 20
"""Compute-optimal tokens per parameter (Hoffmann et al. 2022, table 3)."""

CHINCHILLA = "chinchilla"

LONGEST = 40
"""Most characters of a horizon."""

SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
"""Factors of a number, which is a Fraction: as a float, 16.1K is a little more than 16,100."""

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
    amount = Fraction(found[1]) * SUFFIXES[found[2]]
    steps = amount if found[3] == "steps" else amount / tokens_per_step
    return max(1, math.ceil(steps))


TOKENS_PATTERN = re.compile(r"^(\d+(?:\.\d+)?) ?([KMBTN])$")
"""A number of tokens with a suffix; N stands for the run's parameters."""


def check_tokens(value: Any) -> Any:
    """Return a number of tokens unchanged, such as 2e9, '10B' or '20N'; raise ValueError if it is
    not one."""
    if not isinstance(value, str):
        return check_number(value)
    if not TOKENS_PATTERN.match(value) or len(value) > LONGEST:
        expected = "a number of tokens such as 2e9 or 10B, or 20N for 20 per parameter"
        raise ValueError(f"found {shorten(repr(value))}; expected {expected}")
    if tokens_of(value, 1) <= 0:
        raise ValueError(f"found {value!r}; expected more than 0 tokens")
    return value


def tokens_of(value: float | str, params: int) -> float:
    """Return the tokens that a number of tokens stands for, in a run with `params` parameters."""
    if not isinstance(value, str):
        return value
    found = TOKENS_PATTERN.match(value)
    assert found is not None
    return float(Fraction(found[1]) * (params if found[2] == "N" else SUFFIXES[found[2]]))


def whole_steps(tokens: float, tokens_per_step: int) -> int:
    """Return the number of whole optimizer steps that is nearest to `tokens`, at least 1."""
    return max(1, math.floor(tokens / tokens_per_step + 0.5))
