"""The time of a run outside its start-up and steps, worked by hand."""

from typing import Any

import pytest

from study.estimate.overhead import count_evaluations, count_saves, pauses, rest_terms
from tests.study.conftest import MakeGrid


def test_saves_and_evaluations_by_hand(make_grid: MakeGrid) -> None:
    """An evaluation reads 16 x 64 tokens, those of two steps, forward alone: a third of 0.6 s."""
    run = {
        "eval": {"every": 20, "validation": {"max_sequences": 16}},
        "checkpoint": {"dump": {"every": 10}},
    }
    cell = make_grid({"run": run})[0]
    terms = rest_terms(cell, steps=40, step_s=0.3)
    assert terms["evaluations"] == pytest.approx(2 * 0.2)
    # a weight and AdamW's two moments, fp32, at 1 GB/s
    assert terms["saves"] == pytest.approx(4 * 12 * cell.params / 1e9)
    without = make_grid({"run": {"eval": None, "checkpoint": None}})[0]
    assert rest_terms(without, steps=40, step_s=0.3) == {"saves": 0, "evaluations": 0, "end": 1.0}


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({"optim": {"lr": 1e-2}}, True),
        ({"checkpoint": {"dump": {"every": 20, "keep": 3}}}, True),
        ({"checkpoint": {"dump": {"every": 10}}}, False),
        ({"checkpoint": {"async_save": False}}, False),
        ({"checkpoint": None}, False),
        ({"eval": {"every": 10}}, False),
        ({"eval": {"validation": {"max_sequences": 32}}}, False),
        ({"eval": None}, False),
    ],
)
def test_what_interrupts_a_run(make_grid: MakeGrid, changes: dict[str, Any], alike: bool) -> None:
    """Of 40 steps, with a save and an evaluation of 16 sequences every 20."""
    run = {
        "eval": {"every": 20, "validation": {"max_sequences": 16}},
        "checkpoint": {"dump": {"every": 20}, "async_save": True},
    }
    block = {"cluster": "here", "model": "tiny", "gpus": 1, "variant": ["base", "changed"]}
    study = {"run": run, "variants": {"changed": changes}, "grid": [block]}
    base, changed = (pauses(cell, 40) for cell in make_grid(study))
    assert (base == changed) == alike


@pytest.mark.parametrize(
    ("dump", "evaluation", "steps", "saves"),
    [
        pytest.param(10, None, 40, 4, id="the last step is one of them"),
        pytest.param(10, None, 45, 5, id="and at the end"),
        pytest.param(10, 15, 40, 5, id="once at step 30"),
        pytest.param(10, 15, 45, 6, id="the other kind ends with the run"),
        pytest.param(10, 15, 44, 6, id="neither does"),
        pytest.param(None, None, 44, 1, id="at the end alone"),
    ],
)
def test_how_often_a_run_saves(
    make_grid: MakeGrid, dump: int | None, evaluation: int | None, steps: int, saves: int
) -> None:
    checkpoint = {"dump": {"every": dump}, "eval": {"every": evaluation}}
    cell = make_grid({"run": {"eval": None, "checkpoint": checkpoint}})[0]
    assert count_saves(cell, steps) == saves


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [(None, 45, 0), ({}, 45, 1), ({"every": 10}, 40, 4), ({"every": 10}, 45, 5)],
)
def test_how_often_a_run_evaluates(
    make_grid: MakeGrid, settings: dict[str, Any] | None, steps: int, expected: int
) -> None:
    """At its end, too."""
    cell = make_grid({"run": {"eval": settings, "checkpoint": None}})[0]
    assert count_evaluations(cell, steps) == expected
