"""The length of runs: steps, tokens, FLOPs, and expressions of what a cell has."""

import pytest

from study.show.plan import find_state
from tests.study.conftest import MakeGrid, plan, write_run
from tests.study.grids import TINY_PARAMS, WIDE_PARAMS, grid_of
from trainer.yaml_files import parse_yaml


def test_lengths_by_hand() -> None:
    """20N, FLOPs and expressions of three cells; 512 tokens a step on each process.

    20 * 164,416 = 3,288,320 tokens are 6,422.5 steps on one process and 3,211.25 on two.
    20 * 590,976 = 11,819,520 tokens are 23,085 steps. FLOPs of a token: 6N + 12*L*S*q, with N
    without the embedding: tiny 6*147,904 + 12*2*64*64 = 985,728.
    """
    run = {"optim": {"lr": "3e-3 * (params / 1e8) ** -0.25", "warmup": "2% of steps"}}
    made = grid_of(
        {"tokens": "20N"},
        {"tokens": "20N", "gpus": 2},
        {"tokens": "20N", "model": "wide"},
        {"flops": 1e18},
        {"tokens": ["2M", 2e6]},
        run=run,
    )
    found = [(cell.params, cell.run.steps, cell.run.optim.warmup) for cell in made]
    assert found == [
        (TINY_PARAMS, 6_423, 128),
        (TINY_PARAMS, 3_211, 64),
        (WIDE_PARAMS, 23_085, 462),
        (TINY_PARAMS, 1_981_403_592, 39_628_072),  # 1e18 / 985,728 / 512 = 1,981,403,592.07
        (TINY_PARAMS, 3_906, 78),  # 3,906.25
        (TINY_PARAMS, 3_906, 78),
    ]
    # 0.00164416 ** 0.25 = 0.201366; 0.00590976 ** 0.25 = 0.277263
    rates = [cell.run.optim.lr for cell in made]
    assert rates[0] == pytest.approx(0.0148982, rel=1e-4) == rates[1]
    assert rates[2] == pytest.approx(0.0108201, rel=1e-4)
    assert [cell.variant for cell in made] == [
        *("tokens-20N", "tokens-20N", "tokens-20N", "flops-1e18", "tokens-2M", "tokens-2e6"),
    ]
    again = [parse_yaml(cell.run.to_yaml(), "run.yaml") for cell in made]
    assert [(run["steps"], run["optim"]["lr"]) for run in again] == [
        (cell.run.steps, cell.run.optim.lr) for cell in made
    ]


def test_the_plan_shows_what_steps_are_rounded_from(make_grid: MakeGrid) -> None:
    changes = [
        {"cluster": "here", "model": "tiny", "gpus": [1, 2], "tokens": "20N"},
        {"cluster": "here", "model": "wide", "gpus": 1, "flops": 1e12},
        {"cluster": "here", "model": "wide", "gpus": 1, "tokens": ["20N"], "variant": "more"},
        {"cluster": "here", "model": "tiny", "gpus": 1, "steps": [1000]},
    ]
    text = plan(make_grid({"grid": changes, "variants": {"more": {"steps": 3}}}))[1]
    lines = text.splitlines()
    assert lines[0].startswith("5 cells: 5 to run. 5 to train, ")
    row = {line.split()[0]: line for line in lines[4:9]}
    assert "6,423 (20N tokens, +0.0078%)" in row["here/tiny/gpus-1/tokens-20N/seed-42"]
    assert "3,211 (20N tokens, -0.0078%)" in row["here/tiny/gpus-2/tokens-20N/seed-42"]
    # 1e12 / (6 * 557,952 + 12*2*64*128) / 512 = 551.06
    assert "551 (1e12 FLOPs, -0.01%)" in row["here/wide/gpus-1/flops-1e12/seed-42"]
    assert "23,085 (20N tokens)" in row["here/wide/gpus-1/more+tokens-20N/seed-42"]
    assert "  1,000  " in row["here/tiny/gpus-1/steps-1000/seed-42"]


def test_a_length_follows_the_batch_of_the_cell() -> None:
    """A global batch of 64 sequences has 4,096 tokens: 802.8 steps for 20N."""
    made = grid_of({"gpus": [1, 4], "tokens": "20N", "global_batch_size": 64})
    assert [(cell.run.steps, cell.run.grad_acc_steps) for cell in made] == [(803, 8), (803, 2)]
    (cell,) = grid_of({"tokens": 1}, run={"data": {"batch_size": "4 * nodes"}})
    assert (cell.run.steps, cell.tokens_per_step) == (1, 256)


def test_a_changed_expression_retrains_the_cells_whose_values_change(make_grid: MakeGrid) -> None:
    before = make_grid({"run": {"optim": {"lr": "1e-3 * dim / 64", "warmup": "2% of steps"}}})
    for cell in before:
        write_run(cell)
    after = make_grid({"run": {"optim": {"lr": "1e-3 * min(dim / 64, 1)", "warmup": "steps / 50"}}})
    states = {row.cell.name: row.state for row in plan(after)[0]}
    assert states == {
        "here/tiny/gpus-1/base/seed-42": "measured",
        "here/tiny/gpus-2/base/seed-42": "measured",
        "here/wide/gpus-1/base/seed-42": "stale",
        "here/wide/gpus-2/base/seed-42": "stale",
    }
    assert find_state(after[0], None) == ("to run", "")
