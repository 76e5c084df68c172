"""Which analyses a grid has, and which cells are compared."""

from typing import Any

import pytest

from study.analysis.catalogue import ANALYSES
from study.analysis.series import (
    FINDERS,
    TABLES,
    ablations,
    find_analyses,
    isoflop_curves,
    learning_rates,
    table_files,
    token_counts,
)
from tests.study.analysis.three_sizes import RATES, SIZES, THREE
from tests.study.conftest import MakeGrid
from tests.study.grids import ONE


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"grid": [{**ONE, "gpus": [1, 2, 4], "seed": [1, 2, 3]}]}, []),
        ({"grid": [{**SIZES, "sweep": RATES}]}, ["learning_rate"]),
        ({"grid": [{**SIZES, "sweep": {"optim.lr": [1e-3, 2e-3]}}]}, []),
        ({"grid": [{**ONE, "sweep": {"optim.lr": "1e-3 * gpus"}, "gpus": [1, 2, 4]}]}, []),
        ({"grid": [{**SIZES, "flops": 1e12}]}, ["isoflop"]),
        ({"grid": [{**SIZES, "flops": [1e12, 2e12]}]}, ["isoflop"]),
        ({"grid": [{**SIZES, "model": ["tiny", "wide"], "flops": 1e12}]}, []),
        (
            {
                "grid": [
                    {**SIZES, "model": ["tiny", "wide"], "flops": 1e12},
                    {**SIZES, "model": "deep", "flops": 2e12},
                ]
            },
            [],
        ),
        ({"grid": [{**ONE, "flops": [1e12, 2e12]}]}, ["tokens_per_parameter"]),
        ({"grid": [{**SIZES, "tokens": ["1N", "2N"]}]}, ["tokens_per_parameter"]),
        ({"grid": [{**SIZES, "tokens": "1N"}]}, []),
        ({"grid": [{**ONE, "sweep": {"model.weight_tying": [False, True]}}]}, ["ablations"]),
        ({"grid": [{**ONE, "sweep": {"data.batch_size": [1, 2]}}]}, []),
        ({"grid": [{**ONE, "sweep": {"optim.weight_decay": [0, 0.1]}}]}, []),
        (
            {
                "grid": [
                    {**SIZES, "sweep": RATES, "tokens": ["1N", "2N"]},
                    {**SIZES, "flops": 1e12},
                    {**ONE, "variant": ["base", "changed"]},
                ],
                "variants": {"changed": {"model": {"rope_theta": 5e5}}},
            },
            list(FINDERS),
        ),
        ({"grid": [{**SIZES, "flops": 1e12, "measure": False}]}, []),
    ],
)
def test_an_analysis_is_made_where_the_grid_has_it(
    make_grid: MakeGrid, changes: dict[str, Any], found: list[str]
) -> None:
    assert find_analyses(make_grid({"models": THREE, **changes})) == found


def test_the_tables_that_planning_names_are_those_of_the_catalogue() -> None:
    assert {name: tuple(analysis.tables) for name, analysis in ANALYSES.items()} == TABLES
    assert list(ANALYSES) == list(FINDERS)
    assert table_files(["isoflop"]) == ["isoflop.csv", "isoflop_exponents.csv", "isoflop.md"]
    assert table_files([]) == []


def test_rates_are_compared_at_equal_settings(make_grid: MakeGrid) -> None:
    """A length and a weight decay make series of their own; a variant of the rate does not."""
    sweep = {**RATES, "optim.weight_decay": [0.0, 0.1]}
    variants = {"hot": {"optim": {"lr": 8e-3, "weight_decay": 0.0}}}
    grid = [
        {**ONE, "tokens": ["1N", "2N"], "sweep": sweep},
        {**ONE, "tokens": "1N", "variant": "hot"},
    ]
    series = learning_rates(make_grid({"variants": variants, "grid": grid}))
    assert {item.label: len(item.cells) for item in series} == {
        "tokens-1N+weight_decay-0": 4,
        "tokens-1N+weight_decay-0.1": 3,
        "tokens-2N+weight_decay-0": 3,
        "tokens-2N+weight_decay-0.1": 3,
    }
    first = series[0].cells
    assert [cell.run.optim.lr for cell in first] == [1e-3, 2e-3, 4e-3, 8e-3]


def test_clusters_form_one_curve_unless_they_repeat_each_other(make_grid: MakeGrid) -> None:
    apart = [
        {**SIZES, "model": ["tiny", "wide"], "flops": 1e12},
        {**SIZES, "cluster": "fast", "model": "deep", "gpus": 2, "flops": 1e12},
    ]
    (one,) = isoflop_curves(make_grid({"models": THREE, "grid": apart}))
    assert (one.label, len(one.cells)) == ("base", 3)
    repeated = [{**SIZES, "gpus": [1, 2], "flops": 1e12}]
    two = isoflop_curves(make_grid({"models": THREE, "grid": repeated}))
    assert [(item.label, len(item.cells)) for item in two] == [
        ("base on 1x here", 3),
        ("base on 2x here", 3),
    ]


def test_branches_are_not_compared_with_runs_from_the_beginning(make_grid: MakeGrid) -> None:
    variants = {
        "stable": {"steps": 40, "checkpoint": {"dump": {"every": 4, "keep": 0}}},
        "decay": {},
    }
    grid = [
        {**ONE, "variant": "stable"},
        {**ONE, "variant": "decay", "steps": [10, 20], "from": {"cell": "stable", "at": 8}},
        {**ONE, "variant": "base", "steps": [10, 20]},
    ]
    series = token_counts(make_grid({"variants": variants, "grid": grid}))
    assert [(item.label, len(item.cells)) for item in series] == [("decay", 2), ("base", 2)]


def test_each_trainer_has_a_series_of_its_own_and_its_name(make_grid: MakeGrid) -> None:
    other = {
        "launcher": "none",
        "script": "zsh",
        "log": {"format": "json", "fields": {"step": "n"}},
    }
    block = {**ONE, "sweep": RATES, "variant": ["base", "long"], "trainer": ["ours", "zsh"]}
    changes = {"trainers": {"zsh": other}, "variants": {"long": {"data": {"seq_len": 128}}}}
    both = learning_rates(make_grid({**changes, "grid": [block]}))
    assert [series.label for series in both] == ["ours", "ours+long", "zsh", "zsh+long"]
    alone = learning_rates(make_grid({**changes, "grid": [{**block, "trainer": "ours"}]}))
    assert [series.label for series in alone] == ["base", "long"]


def test_changes_are_compared_with_the_same_length_and_size(make_grid: MakeGrid) -> None:
    """A variant counts whole as a change, if any of it is of the architecture."""
    variants = {
        "tied": {"model": {"weight_tying": True}, "optim": {"lr": 1e-3}},
        "slow": {"optim": {"lr": 1e-4}},
    }
    block = {**SIZES, "variant": ["base", "tied", "slow"], "tokens": ["1N", "2N"]}
    series = ablations(make_grid({"models": THREE, "variants": variants, "grid": [block]}))
    assert [item.label for item in series] == ["tokens-1N", "tokens-2N"]
    assert list(series[0].by_model()) == ["tiny", "wide", "deep"]
    assert set(series[0].changes.values()) == {(), ("tied",)}
    sweep = {"model.weight_tying": [False, True], "model.rope_theta": [1e4, 5e5]}
    (swept,) = ablations(make_grid({"grid": [{**ONE, "sweep": sweep, "tokens": "1N"}]}))
    assert next(iter(swept.changes.values())) == (
        "weight_tying-false",
        "rope_theta-10000",
    )
    assert len(set(swept.changes.values())) == 4


def test_what_a_sweep_varies_beside_a_change_does_not_belong_to_it(make_grid: MakeGrid) -> None:
    """Though the variant has a learning rate of its own, the swept ones replace it."""
    variants = {"tied": {"model": {"weight_tying": True}, "optim": {"lr": 1e-3}}}
    block = {**ONE, "variant": ["base", "tied"], "sweep": {"optim.lr": [2e-3, 4e-3]}}
    series = ablations(make_grid({"variants": variants, "grid": [block]}))
    assert [item.label for item in series] == ["lr-0.002", "lr-0.004"]
    assert [set(item.changes.values()) for item in series] == [{(), ("tied",)}] * 2


def test_a_cell_without_a_length_of_its_own_is_no_length_beside_others(make_grid: MakeGrid) -> None:
    """It has the study's steps, as do cells of other analyses."""
    grid = make_grid({"grid": [ONE, {**ONE, "steps": [20, 30]}]})
    (series,) = token_counts(grid)
    assert [cell.run.steps for cell in series.cells] == [20, 30]
