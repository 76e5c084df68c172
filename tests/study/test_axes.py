"""Lengths and sweeps: the cells that they make, and the cells' names."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.axes import name_value, name_variant, short_key
from study.config import Study
from study.estimate.terms import data_sheet, memory_terms, step_terms
from study.grid import Cell, Grid
from study.jobs.workflow import text_files
from study.load import load_study, load_study_file
from study.show.plan import find_state
from study.workload import workload
from tests.study.conftest import MakeGrid, write_run
from tests.study.show.test_plan import plan
from tests.study.test_grid import STUDY, problems
from trainer.config import RunConfig
from trainer.flops import flops_per_token
from trainer.layers import merge
from trainer.problems import ConfigError
from trainer.settings import dotted_keys
from trainer.yaml_files import parse_yaml

LINEAR = {"rope_type": "linear", "factor": 2.0}

ONE = {"cluster": "here", "model": "tiny", "gpus": 1}

# tiny: 2 * (4*64*64 + 3*64*256 + 2*64) + 64 = 131,392 in blocks and norms; 258*64 = 16,512 in the
# embedding and as many in the output matrix. wide: 524,928 and 33,024.
TINY, WIDE = 164_416, 590_976


def grid(*entries: dict[str, Any], **changes: Any) -> Grid:
    values = merge(parse_yaml(STUDY, "study.yaml"), changes)
    return Grid(load_study({**values, "grid": [{**ONE, **entry} for entry in entries]}))


def told(*entries: dict[str, Any]) -> list[str]:
    values = parse_yaml(STUDY, "study.yaml")
    return problems({**values, "grid": [{**ONE, **entry} for entry in entries]})


def test_lengths_by_hand() -> None:
    """20N, FLOPs and expressions of three cells; 512 tokens a step on each process.

    20 * 164,416 = 3,288,320 tokens are 6,422.5 steps on one process and 3,211.25 on two.
    20 * 590,976 = 11,819,520 tokens are 23,085 steps. FLOPs of a token: 6N + 12*L*S*q, with N
    without the embedding: tiny 6*147,904 + 12*2*64*64 = 985,728.
    """
    run = {"optim": {"lr": "3e-3 * (params / 1e8) ** -0.25", "warmup": "2% of steps"}}
    made = grid(
        {"tokens": "20N"},
        {"tokens": "20N", "gpus": 2},
        {"tokens": "20N", "model": "wide"},
        {"flops": 1e18},
        {"tokens": ["2M", 2e6]},
        run=run,
    )
    found = [(cell.params, cell.run.steps, cell.run.optim.warmup) for cell in made]
    assert found == [
        (TINY, 6_423, 128),
        (TINY, 3_211, 64),
        (WIDE, 23_085, 462),
        (TINY, 1_981_403_592, 39_628_072),  # 1e18 / 985,728 / 512 = 1,981,403,592.07
        (TINY, 3_906, 78),  # 3,906.25
        (TINY, 3_906, 78),
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
    made = grid({"gpus": [1, 4], "tokens": "20N", "global_batch_size": 64})
    assert [(cell.run.steps, cell.run.grad_acc_steps) for cell in made] == [(803, 8), (803, 2)]
    (cell,) = grid({"tokens": 1}, run={"data": {"batch_size": "4 * nodes"}})
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


def test_swept_keys_are_crossed() -> None:
    made = grid(
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
    cells = grid({"model": ["tiny", "wide"], "repeats": 3, "seed": 7})
    names = [f"{cell.model} {cell.seed}" for cell in cells]
    assert names == ["tiny 7", "tiny 8", "tiny 9", "wide 7", "wide 8", "wide 9"]
    (message,) = told({"repeats": 3, "seed": [1, 2]})
    assert message == "grid[0].repeats = 3 counts up from one seed; found 2 seeds"


def test_an_architecture_is_swept() -> None:
    """tiny has 2 layers, 2 heads of 32, d = 64, h = 256."""
    made = grid(
        {"sweep": {"model.qk_norm": [False, True], "model.activation": ["swiglu", "gelu"]}},
        {"sweep": {"model.norm_type": "layernorm", "model.pos_embed": "none"}},
        {"sweep": {"model.rope_scaling": [None, {"rope_type": "linear", "factor": 4}]}},
    )
    assert [(cell.variant, cell.params) for cell in made[:5]] == [
        ("qk_norm-false+activation-swiglu", TINY),
        ("qk_norm-false+activation-gelu", TINY - 2 * 64 * 256),
        ("qk_norm-true+activation-swiglu", TINY + 2 * 64),
        ("qk_norm-true+activation-gelu", TINY - 2 * 64 * 256 + 2 * 64),
        ("norm_type-layernorm+pos_embed-none", TINY),
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
        (TINY - 258 * 64 - 2 * 64 * 256) / (TINY - 258 * 64)
    )


def test_a_source_is_switched_off_by_a_weight_of_0() -> None:
    """Its text need not exist."""
    made = grid({}, {"sweep": {"data.sources.missing": 0}})
    assert [cell.variant for cell in made] == ["base", "missing-0"]
    assert list(made.sources) == ["python_stdlib"]
    assert made[0].fingerprint == made[1].fingerprint
    (problem,) = told({"sweep": {"data.sources.python_stdlib": 0}})
    assert problem.startswith(
        "grid[0].sweep.data.sources.python_stdlib[0]: found only weights of 0; expected one above 0"
    )


def test_paired_lists_are_taken_together() -> None:
    made = grid(
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
    made = grid({**entry, "where": "optim.lr * gpus < 5e-3 and (params < 200e3 or gpus == 1)"})
    assert [(cell.model, cell.gpus, cell.run.optim.lr) for cell in made] == [
        *(("tiny", 1, 1e-3), ("tiny", 1, 4e-3), ("tiny", 2, 1e-3), ("tiny", 4, 1e-3)),
        *(("wide", 1, 1e-3), ("wide", 1, 4e-3)),
    ]


def test_where_leaves_out_cells_that_would_be_invalid() -> None:
    sweep = {"model.n_heads": [1, 2, 3, 4], "model.head_dim": None}
    made = grid({"sweep": sweep, "where": "model.dim % model.n_heads == 0"})
    assert [cell.run.model.head_dim for cell in made] == [64, 32, 16]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"tokens": "20N", "flops": 1e18}, "grid[0].flops: the runs' length is set by tokens and"),
        ({"steps": 5, "sweep": {"steps": 6}}, "grid[0].sweep: the runs' length is set by steps"),
        ({"tokens": "20X"}, "grid[0].tokens[0]: found '20X'; expected a number of tokens such as"),
        ({"tokens": ["1B", "0N"]}, "grid[0].tokens[1]: found '0N'; expected more than 0 tokens"),
        ({"tokens": -1}, "grid[0].tokens[0]: found -1; input should be greater than 0"),
        ({"tokens": True}, "grid[0].tokens: found true; expected "),
        ({"flops": "1e18"}, "grid[0].flops[0]: found '1e18'; expected a number"),
        ({"flops": 1e300}, "grid[0].flops[0] = 1e+300 is 2e+291 steps; expected "),
        ({"steps": [10, 0]}, "grid[0].steps[1]: found 0; input should be greater than 0"),
        ({"sweep": {"optim.lrr": 1}}, "grid[0].sweep.optim.lrr[0]: unknown key; did you mean 'lr'"),
        ({"sweep": {"optim.lr": [1, -1]}}, "grid[0].sweep.optim.lr[1]: found -1; input should be"),
        ({"sweep": {"optim.lr": ["q * 2"]}}, "grid[0].sweep.optim.lr[0]: unknown name 'q'"),
        ({"sweep": {"optim.lr": []}}, "grid[0].sweep.optim.lr: found a list"),
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
        ({"sweep": {"optim.lr": [1, 1.0]}}, "grid[0]: duplicate cell here/tiny/1/lr-1/42, already"),
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
    (problem,) = told(entry)
    assert problem.startswith(expected)


def test_many_combinations_are_refused_before_they_are_expanded() -> None:
    values = [i / 1000 for i in range(1, 500)]
    (problem,) = told({"sweep": {"optim.lr": values, "optim.epsilon": values}})
    assert problem == "grid: found 249,001 cells; expected 10,000 or fewer"


STABLE = {"steps": 40, "checkpoint": {"dump": {"every": 8, "keep": 0}}}


def branched(branch: dict[str, Any], trunk: dict[str, Any] | None = None, **entry: Any) -> Any:
    study = parse_yaml(STUDY, "study.yaml")
    study["variants"] = {"stable": merge(STABLE, trunk or {}), "other": {}}
    first = {**ONE, "variant": "stable", **entry.pop("first", {})}
    study["grid"] = [first, {**ONE, "variant": "other", "from": branch, **entry}]
    return study


@pytest.mark.parametrize(
    ("at", "step"), [("60%", 24), (16, 16), ("0.8 * steps", 16), ("100%", 40), (None, 40)]
)
def test_a_cell_starts_from_the_checkpoint_of_another(at: Any, step: int) -> None:
    """Percentages are of the other's steps; facts are those of the cell that starts there."""
    branch = {"cell": "stable"} | ({} if at is None else {"at": at})
    study = branched(branch, steps=20 if step < 20 else 50)
    trunk, cell = Grid(load_study(study, "study.yaml"))
    assert (cell.trunk, cell.start_step, trunk.trunk) == (trunk.folder, step, None)
    assert cell.run.checkpoint.continue_from == f"{trunk.folder}/checkpoints/{step:010d}"
    assert cell.run.checkpoint.continue_run == f"{trunk.run.trajectory(1)}-{step}"


def test_a_changed_trunk_is_another_start_and_a_moved_one_is_not() -> None:
    def cells(**changes: Any) -> Grid:
        return Grid(load_study({**branched({"cell": "stable"}, steps=50), **changes}))

    before, moved = cells(), cells(results_dir="/elsewhere")
    assert [cell.fingerprint for cell in moved] == [cell.fingerprint for cell in before]
    assert moved[1].trunk == moved[0].folder != before[0].folder
    quiet = Grid(load_study(branched({"cell": "stable"}, {"logging": {"freq": 7}}, steps=50)))
    assert quiet[0].fingerprint != before[0].fingerprint
    assert quiet[1].fingerprint == before[1].fingerprint
    hot = Grid(load_study(branched({"cell": "stable"}, {"optim": {"lr": 1e-2}}, steps=50)))
    assert hot[1].fingerprint != before[1].fingerprint


def test_branches_of_branches_and_by_whole_name() -> None:
    study = branched({"cell": "here/tiny/gpus-1/stable/seed-42", "at": 8}, steps=16, gpus=[1, 2])
    study["variants"]["other"] = {"checkpoint": {"dump": {"every": 4, "keep": 0}}}
    last = {"cell": "other+steps-16", "at": "75%"}
    study["grid"].append({**ONE, "variant": "other", "steps": 30, "from": last})
    made = Grid(load_study(study))
    assert [cell.start_step for cell in made] == [0, 8, 8, 12]
    assert [cell.trunk for cell in made[1:]] == [made[0].folder, made[0].folder, made[1].folder]
    assert plan(made)[1].count("16 from 8") == 2


@pytest.mark.parametrize(
    ("study", "told"),
    [
        (branched({"cell": "stabel"}), "grid[1].from.cell: found no cell here/tiny/gpus-1/stabel/"),
        (branched({"cell": "other"}), "grid[1].from.cell: found no cell here/tiny/gpus-1/other/se"),
        (
            branched({"cell": "stable", "att": 3}),
            "grid[1].from.att: unknown key; did you mean 'at'",
        ),
        (branched({"cell": "stable", "at": 0}), "grid[1].from.at: found 0; input should be"),
        (branched({"cell": "stable", "at": "q * 2"}), "grid[1].from.at: unknown name 'q'"),
        (branched({"cell": "stable", "at": "gpus < 2"}), "grid[1].from.at: found True; expected a"),
        (
            branched({"cell": "stable", "at": 16}, steps=16),
            "grid[1].from.at: found step 16 of here/tiny/gpus-1/stable/seed-42, and 16 steps in",
        ),
        (
            branched({"cell": "stable", "at": 10}, steps=30),
            "grid[1].from.at: here/tiny/gpus-1/stable/seed-42 does not keep a checkpoint of step "
            "10, as it saves every 8 steps and keeps all; expected a divisor of 10 as",
        ),
        (
            branched({"cell": "stable", "at": 8}, {"checkpoint": {"dump": {"keep": 2}}}, steps=30),
            "grid[1].from.at: here/tiny/gpus-1/stable/seed-42 does not keep a checkpoint of step",
        ),
        (
            branched({"cell": "stable", "at": 8}, {"checkpoint": None}, steps=30),
            "grid[1].from.at: here/tiny/gpus-1/stable/seed-42 saves no checkpoints",
        ),
        (
            branched({"cell": "stable", "at": 48}, steps=60),
            "grid[1].from.at: here/tiny/gpus-1/stable/seed-42 has 40 steps; found step 48",
        ),
        (
            branched({"cell": "stable"}, {"model": {"n_layers": 3}}, steps=60),
            "grid[1].from.cell: here/tiny/gpus-1/stable/seed-42 has model.n_layers = 3; expected 2",
        ),
        (
            branched({"cell": "stable"}, steps=60, first={"measure": False}),
            "grid[1].from.cell: here/tiny/gpus-1/stable/seed-42 is never run",
        ),
        (
            branched({"cell": "stable"}, steps=60, first={"gpus": [1, 2], "where": "gpus > 1"}),
            "grid[1].from.cell: here/tiny/gpus-1/stable/seed-42 is never run",
        ),
    ],
)
def test_a_start_that_will_not_be_there(study: dict[str, Any], told: str) -> None:
    (problem,) = problems(study)
    assert problem.startswith(told)


def test_cells_that_start_from_each_other_are_refused() -> None:
    study = branched({"cell": "stable"}, first={"from": {"cell": "other"}})
    assert sorted(problem[:32] for problem in problems(study)) == [
        "grid[0].from.cell: found no cell",
        "grid[1].from.cell: found no cell",
    ]


def test_a_branch_is_planned_with_its_own_steps(make_grid: MakeGrid) -> None:
    """30 steps of 90 s from step 20 on, of which the first is part of the start-up."""
    cells = {"cluster": "here", "model": "tiny", "gpus": 1}
    branch = {**cells, "variant": "decay", "steps": 30, "from": {"cell": "base", "at": "50%"}}
    grid = make_grid({"grid": [cells, branch], "variants": {"decay": {}},
                      "run": {"checkpoint": {"dump": {"every": 20, "keep": 0}}}})  # fmt: skip
    write_run(grid[0], step_s=90.0, startup_s=0.0)
    rows, text = plan(grid)
    assert rows[1].estimate.steps == 10
    assert rows[1].estimate.seconds == pytest.approx(9 * 90, rel=0.02)
    assert "30 from 20" in text


def preset(name: str) -> Grid:
    path = Path("config/studies", f"{name}.yaml")
    first, second, *_ = path.read_text().splitlines()
    assert first.endswith("$schema=../../workflow/schemas/study.schema.json")
    assert second.startswith("# ") and "On a cluster:" in path.read_text()
    grid = Grid(load_study_file(str(path)))
    # Minutes on a CPU: at 50 GFLOP/s.
    assert sum(cell.run.steps * cell.tokens_per_step * flops(cell) for cell in grid) < 50e9 * 900
    return grid


def flops(cell: Cell) -> float:
    data = cell.run.data
    return flops_per_token(cell.run.model, data.tokenizer.vocab_size, data.seq_len)


def test_isoflop_has_several_sizes_at_each_budget() -> None:
    grid = preset("isoflop")
    for cell in grid:
        spent = cell.run.steps * cell.tokens_per_step * flops(cell)
        budget = float(cell.variant.removeprefix("flops-"))
        assert spent == pytest.approx(budget, rel=0.02)
    sizes = {cell.variant: {c.params for c in grid if c.variant == cell.variant} for cell in grid}
    assert [len(found) for found in sizes.values()] == [4, 4, 4]


def test_the_ladder_has_each_size_at_1_2_and_5_times() -> None:
    grid = preset("ladder")
    steps = [cell.run.steps for cell in grid]
    for first, double, five in zip(steps[::3], steps[1::3], steps[2::3], strict=True):
        assert (double / first, five / first) == (pytest.approx(2, 0.02), pytest.approx(5, 0.02))
    rates = {cell.params: cell.run.optim.lr for cell in grid}
    (small, high), *_, (large, low) = sorted(rates.items())
    assert high / low == pytest.approx((large / small) ** 0.25)


def test_the_sweep_of_learning_rates_differs_in_nothing_else() -> None:
    grid = preset("lr_sweep")
    first = [cell for cell in grid if cell.seed == 42]
    settings = {
        (
            cell.model,
            cell.run.model_copy(update={"optim": None, "dump_dir": "", "name": ""}).to_yaml(),
        )
        for cell in first
    }
    assert (len(first), len(settings)) == (9, 3)
    assert len({cell.seed for cell in grid if cell.variant == "tokens-0.5N+lr-0.004"}) == 3


def test_the_wsd_branches_start_where_their_decays_begin() -> None:
    stable, *decays = preset("wsd_branches")
    assert [(cell.start_step, cell.run.steps) for cell in decays] == [
        (80, 100),
        (160, 200),
        (240, 300),
    ]
    assert {cell.trunk for cell in decays} == {stable.folder}
    assert {cell.run.optim.decay_fraction for cell in decays} == {0.2}
    assert stable.run.steps * 0.8 >= decays[-1].start_step


def test_the_mixes_of_the_data_ablation_have_the_same_held_out_text() -> None:
    grid = preset("data_ablation")
    both = ["python_stdlib", "python_topics"]
    assert all(cell.run.held_out_sources == both for cell in grid)
    assert all(grid.source_names(cell) == both for cell in grid)
    assert [*grid[-1].run.data.sources] == ["python_stdlib"]
    shares = {cell.variant: cell.run.data.sources["python_stdlib"] for cell in grid}
    assert shares == {"base": 50, "more_code": 90, "more_prose": 10, "code_alone": 100}
    assert len(grid) == 3 * len(shares)


def test_settings_of_a_cluster_lie_between_those_of_run_and_of_variants() -> None:
    study = parse_yaml(STUDY, "study.yaml")
    study["clusters"]["there"] = {"device": "cpu", "gpu_name": "CPU core", "gpus_per_node": 4}
    study["run"]["optim"] = {"lr": 1e-3, "clip": 0.5, "weight_decay": 0.3}
    study["clusters_run"] = {"there": {"optim": {"lr": 2e-3, "clip": 0.6}, "grad_acc_steps": 2}}
    study["grid"] = [{**ONE, "cluster": ["here", "there"], "variant": ["base", "hot"]}]
    found = [cell.run for cell in Grid(load_study(study))]
    optim = [(run.optim.lr, run.optim.clip, run.optim.weight_decay) for run in found]
    assert optim == [(1e-3, 0.5, 0.3), (1e-2, 0.5, 0.3), (2e-3, 0.6, 0.3), (1e-2, 0.6, 0.3)]
    assert [run.grad_acc_steps for run in found] == [1, 1, 2, 2]


def test_mistakes_in_the_settings_of_a_cluster() -> None:
    study = parse_yaml(STUDY, "study.yaml")
    study["clusters_run"] = {
        "here": {"seed": 1, "optim": {"lrr": 1, "warmup": 30, "lr": "q * 2"}},
        "heer": {},
    }
    assert [problem.partition(";")[0] for problem in problems(study)] == [
        "clusters_run.here.seed: cannot be set here",
        "clusters_run.heer: unknown cluster 'heer'",
        "clusters_run.here.optim.lr: unknown name 'q'",
        "clusters_run.here.optim.lrr: unknown key",
    ]
    for optim, told in (
        ({"lrr": 1}, "lrr: unknown key; did you mean 'lr'?"),
        ({"warmup": 30}, "warmup = 30 is more than steps = 20"),
    ):
        study["clusters_run"] = {"here": {"optim": optim}}
        assert problems(study) == [f"clusters_run.here.optim.{told}"]


def test_each_cluster_may_have_its_own_folder_of_text(tmp_path: Path) -> None:
    """The text of each is tokenised; a cell waits for its own."""
    for place in ("a", "b"):
        (tmp_path / place / "src").mkdir(parents=True)
        (tmp_path / place / "src" / f"{place}.chunk.0.jsonl").touch()
    study = parse_yaml(STUDY, "study.yaml")
    study["clusters"]["there"] = {"device": "cpu", "gpu_name": "CPU core", "gpus_per_node": 4}
    study["run"]["data"] |= {"root_dir": f"{tmp_path}/a/", "sources": {"src": 1.0}}
    study["clusters_run"] = {"there": {"data": {"root_dir": f"{tmp_path}/b"}}}
    study["grid"] = [{**ONE, "cluster": ["here", "there"]}, {**ONE, "gpus": 2}]
    made = Grid(load_study(study))
    names = [made.source_names(cell) for cell in made]
    assert names[0] == names[2] == ["src"]
    (other,) = names[1]
    assert other.endswith("/src") and list(made.sources) == ["src", other]
    assert made.data_roots == [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert text_files(made, "src") == [f"{tmp_path}/a/src/a.chunk.0.jsonl"]
    assert text_files(made, other) == [f"{tmp_path}/b/src/b.chunk.0.jsonl"]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *((1e-3, "0.001"), (3e-4, "0.0003"), (4e-5, "4e-5"), (0.0, "0"), (-1.5, "-1.5")),
        *((2000, "2000"), (10**18, "1e18"), (1.5e18, "1.5e18"), (1234567, "1234567"), (1e6, "1e6")),
        *((True, "true"), (None, "null"), ("swiglu", "swiglu"), ("20N", "20N"), ("2 B", "2B")),
    ],
)
def test_values_in_names(value: Any, name: str) -> None:
    assert name_value(value) == name


def test_names_of_keys_are_short_and_unique() -> None:
    names = {key: short_key(key) for key in dotted_keys(RunConfig)}
    assert len(set(names.values())) == len(names)
    assert names["optim.lr"] == "lr"
    assert names["model.n_layers"] == "n_layers"
    assert (names["data.seed"], names["model.seed"]) == ("data.seed", "model.seed")
    assert names["checkpoint.dump.every"] == "dump.every"
    assert short_key("data.sources.web") == "web"


def test_the_name_of_many_values_is_cut_and_stays_unique() -> None:
    sweep = {f"data.sources.text-number-{i}": [0.25, 0.75] for i in range(7)}
    sources = {f"text-number-{i}": 1.0 for i in range(7)}
    study = merge(parse_yaml(STUDY, "study.yaml"), {"run": {"data": {"sources": sources}}})
    study["grid"] = [{**ONE, "sweep": sweep}]
    made = [name_variant("base", point.choices) for point in _points(study)]
    assert len(set(made)) == 128
    assert max(map(len, made)) == 100


def _points(study: dict[str, Any]) -> Any:
    from study.points import points

    return points(Study.model_validate(study))


SWEEPS: dict[str, st.SearchStrategy[Any]] = {
    "model.qk_norm": st.booleans(),
    "model.activation": st.sampled_from(["swiglu", "gelu", "relu2"]),
    "model.rope_scaling": st.none() | st.just({"rope_type": "linear", "factor": 2.0}),
    "optim.lr": st.floats(1e-8, 1.0) | st.sampled_from(["1e-3 * gpus", "1 / dim", "1e-3*gpus"]),
    "optim.clip": st.none() | st.floats(0.1, 10.0),
    "model.n_layers": st.integers(1, 9),
    "data.sources": st.dictionaries(
        st.just("python_stdlib"), st.floats(0.1, 3.0), min_size=1, max_size=1
    ),
    "distributed.compile": st.sampled_from([True, False, "auto"]),
    "optim.scheduler": st.sampled_from(["cosine", "linear", "constant"]),
    "checkpoint.dump.every": st.none() | st.integers(1, 2**40),
    "logging.wandb.notes": st.text("ab c/é:1", max_size=50),
}
CLUSTERS = [["here"], ["there", "here"], [{"any": ["here", "there"]}], [{"any": ["there"]}, "here"]]
LENGTHS = {
    "steps": st.integers(1, 10**12),
    "tokens": st.floats(1, 1e12) | st.sampled_from(["1N", "20N", "1.5B", "3 M"]),
    "flops": st.floats(1e6, 1e20),
}


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    """Return a block of a grid whose lists have no value twice."""

    def distinct(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=1, max_size=3, unique_by=name_value))

    entry: dict[str, Any] = {
        "cluster": draw(st.sampled_from(CLUSTERS)),
        "model": distinct(st.sampled_from(["tiny", "wide"])),
        "gpus": distinct(st.sampled_from([1, 2, 4])),
        "variant": distinct(st.sampled_from(["base", "hot"])),
        "sweep": {
            key: distinct(SWEEPS[key])
            for key in draw(st.lists(st.sampled_from(sorted(SWEEPS)), max_size=2, unique=True))
        },
    }
    for kind in draw(st.lists(st.sampled_from(sorted(LENGTHS)), max_size=1)):
        entry[kind] = distinct(LENGTHS[kind])
    if draw(st.booleans()):
        entry["where"] = draw(st.sampled_from(["gpus < 4", "params > 2e5 or gpus == 1"]))
    if draw(st.booleans()):
        count = max(len(value) for value in (*entry.values(), *entry["sweep"].values())
                    if isinstance(value, list))  # fmt: skip
        entry["paired"] = True
        for values in (entry, entry["sweep"]):
            cut = {k: v if len(v) == count else v[:1] for k, v in values.items() if type(v) is list}
            values |= cut
    return entry


@settings(max_examples=60)
@given(st.lists(entries(), min_size=1, max_size=2), st.randoms(use_true_random=False))
def test_any_grid_has_a_folder_for_each_cell_and_survives_a_file(
    drawn: list[Any], chance: random.Random
) -> None:
    """Names are unique, the order is stable, and the study written out expands to the same grid.

    Whatever is chosen for cells with several clusters changes nothing else of them.
    """
    study = parse_yaml(STUDY, "study.yaml")
    study["clusters"]["there"] = study["clusters"]["here"]
    study["grid"] = [{**ONE, **entry, "seed": index} for index, entry in enumerate(drawn)]
    try:
        loaded = load_study(study, "study.yaml")
    except ConfigError as error:
        told = [str(problem) for problem in error.problems]
        assert all("excludes every cell" in text for text in told), told
        return
    keys = dict.fromkeys(cell.placement for cell in Grid(loaded) if cell.placement)
    before = [(cell.labels | {"cluster": ""}, cell.fingerprint) for cell in Grid(loaded)]
    chosen = {key: chance.choice(key.partition("/")[0].split("|")) for key in keys}
    loaded = load_study({**study, "placements": chosen}, "study.yaml")
    cells = list(Grid(loaded))
    assert [(cell.labels | {"cluster": ""}, cell.fingerprint) for cell in cells] == before
    assert all(chosen.get(cell.placement or "", cell.cluster) == cell.cluster for cell in cells)
    assert len({cell.folder for cell in cells}) == len(cells)
    assert all(len(part) <= 100 for cell in cells for part in cell.name.split("/"))
    written = load_study(parse_yaml(loaded.to_yaml(), "again.yaml"), "again.yaml")
    assert list(Grid(written)) == cells == list(Grid(loaded))
    blocks = [cell.seed for cell in cells]
    assert blocks == sorted(blocks)
