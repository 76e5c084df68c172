"""The time of a run outside its start-up and steps, worked by hand."""

import pytest

from study.estimate.overhead import rest_terms
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
