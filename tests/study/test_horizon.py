from typing import Any

import pytest

from study.estimate.overhead import count_evaluations, count_saves
from study.horizon import check_horizon, check_tokens, horizon_steps, tokens_of
from tests.study.conftest import MakeGrid


@pytest.mark.parametrize(
    ("horizon", "steps"),
    [
        # tiny on one GPU: 8 x 64 = 512 tokens a step, 164,416 parameters
        ("500 steps", 500),
        ("2K steps", 2000),
        ("16.1K steps", 16_100),
        ("2B tokens", 3_906_250),
        ("0.5T tokens", 976_562_500),
        ("0 steps", 1),  # no run is without a step
        ("512 tokens", 1),
        ("513 tokens", 2),
        ("1.5M tokens", 2930),
        ("1 tokens", 1),
        ("chinchilla", 6423),  # 20 x 164,416 / 512 = 6422.5
    ],
)
def test_steps_of_a_horizon(make_grid: MakeGrid, horizon: str, steps: int) -> None:
    cell = make_grid()[0]
    assert horizon_steps(horizon, cell.params, cell.tokens_per_step) == steps


@pytest.mark.parametrize("text", ["500", "10 b tokens", "steps", "-1 steps", "1e3 steps", "10B"])
def test_text_that_is_not_a_horizon_is_rejected(make_grid: MakeGrid, text: str) -> None:
    with pytest.raises(ValueError, match=r"expected e\.g\."):
        check_horizon(text)
    with pytest.raises(Exception, match=r"estimate\.horizons"):
        make_grid({"estimate": {"horizons": [text]}})


@pytest.mark.parametrize(
    ("checkpoint", "saves", "evaluations"),
    [
        (None, 0, 1),
        ({}, 1, 1),
        ({"dump": {"every": 30}}, 4, 1),  # 30, 60, 90 and the last
        ({"dump": {"every": 50}}, 2, 1),  # the last is one of them
        ({"dump": {"every": 50}, "eval": {"every": 20}}, 6, 5),  # 20, 40, 50, 60, 80, 100
    ],
)
def test_saves_and_evaluations_in_100_steps(
    make_grid: MakeGrid, checkpoint: Any, saves: int, evaluations: int
) -> None:
    cell = make_grid({"run": {"checkpoint": checkpoint, "eval": {}}})[0]
    assert (count_saves(cell, 100), count_evaluations(cell, 100)) == (saves, evaluations)
    # 30, 60, 90 and the last, whenever the run saves.
    own = make_grid({"run": {"checkpoint": checkpoint, "eval": {"every": 30}}})[0]
    assert (count_saves(own, 100), count_evaluations(own, 100)) == (saves, 4)


@pytest.mark.parametrize("text", ["0N", "0.0B", "20", "20 n", "1." + "0" * 38 + "N"])
def test_text_that_is_no_number_of_tokens_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        check_tokens(text)


def test_numbers_of_tokens_are_exact() -> None:
    """As a float, 16.1B would be 16,100,000,000.000002."""
    assert (tokens_of("16.1B", 1), tokens_of("1.1N", 10**9)) == (16_100_000_000, 1_100_000_000)


def test_a_length_may_have_forty_characters() -> None:
    longest = "1." + "0" * 37 + "N"
    assert (len(longest), check_tokens(longest)) == (40, longest)
    horizon = "1." + "0" * 32 + " steps"
    assert (len(horizon), check_horizon(horizon)) == (40, horizon)
    with pytest.raises(ValueError, match="too long; expected at most 40"):
        check_horizon(horizon.replace(".", ".0"))
