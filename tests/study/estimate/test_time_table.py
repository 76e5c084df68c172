"""The columns of the time table for people."""

from typing import Any

import pytest

from study.estimate.estimate import Estimator
from study.estimate.time_table import readable_estimates
from tests.study.conftest import GUIDE, MakeGrid

PRICES = {"fast": {"price_per_gpu_hour": 3.0, "currency": "USD"}}

HOURS = 4 * 8 / 3600
"""Of 4 s on 8 GPUs."""


@pytest.mark.parametrize(
    ("clusters", "horizon", "hours", "shown"),
    [
        ({}, "500 steps", HOURS, {}),
        ({}, "chinchilla", HOURS, {"Tokens": "1.05M", "GPU-hours": "0.0089"}),
        (PRICES, "500 steps", HOURS, {"GPU-hours": "0.0089", "Cost": "0.03 USD"}),
        (PRICES, "", HOURS, {"GPU-hours": "0.0089", "Cost": "0.03 USD"}),
        (PRICES, "", 1234.0, {"GPU-hours": "1,234", "Cost": "3702.00 USD"}),
    ],
)
def test_optional_columns(
    make_grid: MakeGrid,
    clusters: dict[str, Any],
    horizon: str,
    hours: float,
    shown: dict[str, str],
) -> None:
    """Eight steps of 131,072 tokens; energy is never known."""
    (cell,) = make_grid({**GUIDE, "clusters": clusters})
    row = Estimator([]).estimate(cell, 8)
    price = cell.cluster_config.price_per_gpu_hour
    known = {"horizon": horizon, "gpu_hours": hours, "cost": price and price * hours}
    headings, cells = readable_estimates([type(row)(**{**vars(row), **known})])
    assert headings[:4] == ["Model Size", "Params", "GPUs", "Tokens/Step"]
    assert headings[4:6] == [f"{horizon.title()} Time", "Interval"]
    assert dict(zip(headings[6:-1], cells[0][6:-1], strict=True)) == shown


def test_a_row_without_a_time_is_not_called_estimated(make_grid: MakeGrid) -> None:
    row = Estimator([]).estimate(make_grid()[0], 8)
    assert row.seconds is None
    _, ((*_, time, interval, note),) = readable_estimates([row])
    assert (time, interval) == ("", "")
    why = "no measurement on here yet, and its peak_tflops is not known"
    assert note == f"Not estimated: {why}"


@pytest.mark.parametrize(
    ("variant", "plain", "model"),
    [("base", "base", "small"), ("hot", "hot", "small (hot)"), ("hot", "", "small (hot)"),
     ("litgpt+hot", "hot", "small (hot)"), ("litgpt", "base", "small")],
)  # fmt: skip
def test_a_variant_stands_after_the_model(
    make_grid: MakeGrid, variant: str, plain: str, model: str
) -> None:
    """Without the trainer's name; the table of an earlier version has the whole one alone."""
    row = Estimator([]).estimate(make_grid(GUIDE)[0], 8)
    known = {"variant": variant, "plain_variant": plain}
    _, ((first, *_),) = readable_estimates([type(row)(**{**vars(row), **known})])
    assert first == model
