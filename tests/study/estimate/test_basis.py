"""What an estimate rests on, and the sentence that says so."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from study.estimate.basis import EXTRAPOLATED, INTERPOLATED, find_basis, measured_extent
from study.workload import Workload
from tests.study.estimate.workloads import SMALL

ONE = replace(SMALL, gpus=1, params=1_000_000)
"""A workload on one GPU."""

LADDER = [ONE, replace(ONE, params=10_000_000, gpus=2), replace(ONE, gpus=4)]
"""1M parameters on 1 and 4 GPUs, and 10M on 2."""


def basis(work: Workload, measured: Sequence[Workload]) -> tuple[str, str]:
    return find_basis(work, measured_extent(measured), "long")


@pytest.mark.parametrize(
    ("params", "gpus", "expected"),
    [
        pytest.param(5_000_000, 2, INTERPOLATED, id="between"),
        pytest.param(10_090_000, 2, INTERPOLATED, id="nearly the largest"),
        pytest.param(991_000, 1, INTERPOLATED, id="nearly the smallest"),
        pytest.param(10_200_000, 2, EXTRAPOLATED, id="above"),
        pytest.param(980_000, 1, EXTRAPOLATED, id="below"),
        pytest.param(5_000_000, 3, EXTRAPOLATED, id="only smaller ones on as many GPUs"),
    ],
)
def test_an_interpolation_is_inside_the_measured_sizes(
    params: int, gpus: int, expected: str
) -> None:
    assert basis(replace(ONE, params=params, gpus=gpus), LADDER)[0] == expected


def test_a_size_measured_on_fewer_gpus_alone_is_named() -> None:
    assert basis(replace(ONE, params=5_000_000, gpus=3), LADDER)[1] == (
        "from 3 measured configurations; "
        "5,000,000 parameters on 3 GPUs, measured 1,000,000 on 3 or more"
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"grad_acc_steps": 2}, "2 micro-batches a step, measured 1"),
        ({"value_bytes": 4}, "bytes per value 4 was not measured"),
        ({"unseen": "another"}, "other settings of variant long were not measured"),
    ],
)
def test_what_was_not_measured_is_named(change: dict[str, Any], why: str) -> None:
    expected = EXTRAPOLATED, f"from 1 measured configuration; {why}"
    assert basis(replace(ONE, **change), [ONE]) == expected
    assert basis(ONE, [ONE]) == (INTERPOLATED, "from 1 measured configuration")
