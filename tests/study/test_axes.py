"""What a block varies: the cells of sweeps, repeats, paired lists and where."""

from typing import Any

import pytest

from study.estimate.terms import data_sheet, memory_terms, step_terms
from study.grid_config import GridEntry
from study.workload import workload
from tests.study.grids import TINY_PARAMS, grid_of, problems_of

LINEAR = {"rope_type": "linear", "factor": 2.0}


def test_swept_keys_are_crossed() -> None:
    made = grid_of(
        {
            "model": ["tiny", "wide"],
            "sweep": {"optim.lr": [1e-3, 2e-3], "model.n_layers": [1, 3]},
            "seed": [1, 2],
            "variant": ["base", "hot"],
        }
    )
    assert len(made) == 32
    assert [cell.variant for cell in made[:8:2]] == [
        "lr-0.001+n_layers-1",
        "lr-0.001+n_layers-3",
        "lr-0.002+n_layers-1",
        "lr-0.002+n_layers-3",
    ]
    assert made[8].folder == "results/test/runs/here/tiny/gpus-1/hot+lr-0.001+n_layers-1/seed-1"
    last = made[-1].run
    assert (last.optim.lr, last.model.n_layers, last.model.dim) == (2e-3, 3, 128)
    assert len(made.configurations) == 16


def test_repeats_count_up_from_the_seed() -> None:
    cells = grid_of({"model": ["tiny", "wide"], "repeats": 3, "seed": 7})
    names = [f"{cell.model} {cell.seed}" for cell in cells]
    assert names == ["tiny 7", "tiny 8", "tiny 9", "wide 7", "wide 8", "wide 9"]
    (message,) = problems_of({"repeats": 3, "seed": [1, 2]})
    assert message == "grid[0].repeats = 3 counts up from one seed; found 2 seeds"


@pytest.mark.parametrize(
    ("block", "cells"),
    [
        ({"repeats": 3}, 3 * 2 * 2 * 2),
        ({"seed": [1, 2], "gpus": 1}, 2 * 2 * 2),
        ({"paired": True, "repeats": 5}, 5 * 2),
    ],
)
def test_the_cells_of_a_block_are_counted_before_they_are_made(
    block: dict[str, Any], cells: int
) -> None:
    """Two models, GPU counts and learning rates, crossed or paired."""
    lists = {"model": ["tiny", "wide"], "gpus": [1, 2], "sweep": {"optim.lr": [1e-3, 2e-3]}}
    made = grid_of({**lists, **block})
    assert [entry.combinations for entry in made.study.grid] == [cells] == [len(made)]


def test_an_architecture_is_swept() -> None:
    """tiny has 2 layers, 2 heads of 32, d = 64, h = 256."""
    made = grid_of(
        {"sweep": {"model.qk_norm": [False, True], "model.activation": ["swiglu", "gelu"]}},
        {"sweep": {"model.norm_type": "layernorm", "model.pos_embed": "none"}},
        {"sweep": {"model.rope_scaling": [None, {"rope_type": "linear", "factor": 4}]}},
    )
    assert [(cell.variant, cell.params) for cell in made[:5]] == [
        ("qk_norm-false+activation-swiglu", TINY_PARAMS),
        ("qk_norm-false+activation-gelu", TINY_PARAMS - 2 * 64 * 256),
        ("qk_norm-true+activation-swiglu", TINY_PARAMS + 2 * 64),
        ("qk_norm-true+activation-gelu", TINY_PARAMS - 2 * 64 * 256 + 2 * 64),
        ("norm_type-layernorm+pos_embed-none", TINY_PARAMS),
    ]
    assert made[5].variant == "rope_scaling-null"
    assert made[6].variant.startswith("rope_scaling-rope_type-linear-")
    digests = [(cell.fingerprint, cell.run.trajectory(1)) for cell in made]
    assert len(set(digests)) == 6 and digests[0] == digests[5]
    works = [workload(cell) for cell in made]
    assert len({(work.params, work.kept_share, work.unseen) for work in works[:5]}) == 5
    assert len({cell.speed_key for cell in made}) == 5  # a scaling changes no speed
    # Of 4*64 + 2*128 + 3*256 = 1,280 values a layer keeps 256 less, 128 more, or both.
    shares = [work.kept_share for work in works[:5]]
    assert shares == [1.0, 1024 / 1280, 1408 / 1280, 1152 / 1280, 1.0]
    whole, ungated = (memory_terms(work)["activations"] for work in works[:2])
    assert ungated == pytest.approx(0.8 * whole)
    terms = [step_terms(work, data_sheet(made[0].cluster_config)) for work in works[:2]]
    assert terms[1]["activations"] == pytest.approx(0.8 * terms[0]["activations"])
    assert terms[1]["matmul"] / terms[0]["matmul"] == pytest.approx(
        (TINY_PARAMS - 258 * 64 - 2 * 64 * 256) / (TINY_PARAMS - 258 * 64)
    )


def test_a_source_is_switched_off_by_a_weight_of_0() -> None:
    """Its text need not exist."""
    made = grid_of({}, {"sweep": {"data.sources.missing": 0}})
    assert [cell.variant for cell in made] == ["base", "missing-0"]
    assert list(made.sources) == ["python_stdlib"]
    assert made[0].fingerprint == made[1].fingerprint
    (problem,) = problems_of({"sweep": {"data.sources.python_stdlib": 0}})
    assert problem.startswith(
        "grid[0].sweep.data.sources.python_stdlib[0]: found only weights of 0; expected one above 0"
    )


def test_paired_lists_are_taken_together() -> None:
    made = grid_of(
        {
            "model": ["tiny", "wide"],
            "sweep": {"optim.lr": [2e-3, 1e-3], "optim.weight_decay": 0.2},
            "tokens": ["10N", "20N"],
            "paired": True,
            "seed": [1, 2],
        }
    )
    found = [(cell.model, cell.run.optim.lr, cell.run.steps, cell.seed) for cell in made]
    short, long = 3_211, 23_085
    assert found == [
        ("tiny", 2e-3, short, 1),
        ("tiny", 2e-3, short, 2),
        ("wide", 1e-3, long, 1),
        ("wide", 1e-3, long, 2),
    ]
    assert {cell.run.optim.weight_decay for cell in made} == {0.2}


def test_where_leaves_cells_out() -> None:
    entry = {"gpus": [1, 2, 4], "model": ["tiny", "wide"], "sweep": {"optim.lr": [1e-3, 4e-3]}}
    made = grid_of({**entry, "where": "optim.lr * gpus < 5e-3 and (params < 200e3 or gpus == 1)"})
    assert [(cell.model, cell.gpus, cell.run.optim.lr) for cell in made] == [
        *(("tiny", 1, 1e-3), ("tiny", 1, 4e-3), ("tiny", 2, 1e-3), ("tiny", 4, 1e-3)),
        *(("wide", 1, 1e-3), ("wide", 1, 4e-3)),
    ]


def test_where_leaves_out_cells_that_would_be_invalid() -> None:
    sweep = {"model.n_heads": [1, 2, 3, 4], "model.head_dim": None}
    made = grid_of({"sweep": sweep, "where": "model.dim % model.n_heads == 0"})
    assert [cell.run.model.head_dim for cell in made] == [64, 32, 16]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"tokens": "20N", "flops": 1e18}, "grid[0].flops: the runs' length is set by tokens and"),
        ({"steps": 5, "sweep": {"steps": 6}}, "grid[0].sweep: the runs' length is set by steps"),
        ({"tokens": "20X"}, "grid[0].tokens[0]: found '20X'; expected a number of tokens such as"),
        ({"tokens": ["1B", "0N"]}, "grid[0].tokens[1]: found '0N'; expected more than 0 tokens"),
        ({"tokens": -1}, "grid[0].tokens[0]: found -1; expected a number above 0"),
        ({"tokens": True}, "grid[0].tokens: found true; expected "),
        ({"flops": "1e18"}, "grid[0].flops[0]: found '1e18'; expected a number"),
        ({"flops": 1e300}, "grid[0].flops[0] = 1e+300 is 2e+291 steps; expected "),
        ({"steps": [10, 0]}, "grid[0].steps[1]: found 0; expected a number above 0"),
        ({"sweep": {"optim.lrr": 1}}, "grid[0].sweep.optim.lrr[0]: unknown key; did you mean 'lr'"),
        (
            {"sweep": {"optim.lr": [1, -1]}},
            "grid[0].sweep.optim.lr[1]: found -1; expected a number",
        ),
        ({"sweep": {"optim.lr": ["q * 2"]}}, "grid[0].sweep.optim.lr[0]: unknown name 'q'"),
        (
            {"sweep": {"optim.lr": []}},
            "grid[0].sweep.optim.lr: found an empty list; expected at least 1",
        ),
        ({"sweep": {"optim.warmup": [30]}}, "grid[0].sweep.optim.warmup[0] = 30 is more than st"),
        ({"sweep": {"seed": [1]}}, "grid[0].sweep.seed: cannot be swept; seeds are an axis"),
        ({"sweep": {"data.root_dir": "x"}}, "grid[0].sweep.data.root_dir: cannot be swept"),
        (
            {"sweep": {"model.pos_embed": "none", "model.rope_scaling": LINEAR}},
            "grid[0].sweep.model.rope_scaling[0]: pos_embed = none leaves rope_scaling nothing to",
        ),
        (
            {"sweep": {"model.rope_scaling": [{**LINEAR, "rope_type": "llama3"}]}},
            "grid[0].sweep.model.rope_scaling[0] = llama3 also needs low_freq_factor",
        ),
        (
            {"sweep": {"model.rope_scaling": [{**LINEAR, "low_freq_factor": 1.0}]}},
            "grid[0].sweep.model.rope_scaling[0] = linear has only factor; remove low_freq",
        ),
        (
            {"sweep": {"model.activation": ["relu"]}},
            "grid[0].sweep.model.activation[0]: found 'relu'; expected 'swiglu', 'gelu' or 'relu2'",
        ),
        (
            {"sweep": {"model.qk_norm": [1]}},
            "grid[0].sweep.model.qk_norm[0]: found 1; expected true or false",
        ),
        (
            {"sweep": {"optim.lr": [1, 1.0]}},
            "grid[0]: duplicate cell here/tiny/gpus-1/lr-1/seed-42, already",
        ),
        (
            {"paired": True, "gpus": [1, 2], "sweep": {"optim.lr": [1, 2, 3]}},
            "grid[0].paired: needs lists of one length; gpus has 2, optim.lr has 3",
        ),
        ({"where": "gpus > 1"}, "grid[0].where: excludes every cell of the block"),
        ({"where": "gpus"}, "grid[0].where: found 1; expected a condition such as"),
        ({"where": "gpu > 1"}, "grid[0].where: unknown name 'gpu'; did you mean 'gpus'?"),
        ({"where": "gpus => 1"}, "grid[0].where: not an expression (invalid syntax)"),
    ],
)
def test_a_mistake_is_reported_once_with_its_key(entry: dict[str, Any], expected: str) -> None:
    (problem,) = problems_of(entry)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("entry", "count"),
    [
        ({}, "249,001"),
        ({"cluster": {"any": ["here", "there"]}}, "249,001"),
        ({"repeats": 10**15}, "249,001,000,000,000,000,000"),
    ],
)
def test_many_combinations_are_refused_before_they_are_expanded(
    entry: dict[str, Any], count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.points.combinations", None)
    monkeypatch.setattr(GridEntry, "seeds", None)
    values = [i / 1000 for i in range(1, 500)]
    swept = {"sweep": {"optim.lr": values, "optim.epsilon": values}}
    (problem,) = problems_of(swept | entry)
    assert problem == f"grid: found {count} cells; expected 10,000 or fewer"
