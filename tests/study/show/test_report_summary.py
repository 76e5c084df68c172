import pytest

from study.measure.throughput import throughput_rows
from study.show.report_summary import build_matrix, describe_findings, describe_request
from study.show.report_tables import (
    backtest_definitions,
    check_definitions,
    estimate_definitions,
    throughput_definitions,
)
from tests.study.conftest import MakeGrid, write_run

SEEDS = {
    "clusters": {"here": {"peak_tflops": 1.0}},
    "grid": [{"cluster": "here", "model": ["tiny", "wide"], "gpus": [1, 4], "seed": [1, 2]}],
}
VARIANTS = {
    "variants": {"fast": {"optim": {"clip": None}}, "same": {"optim": {"name": "muon"}}},
    "grid": [{"cluster": "here", "model": "tiny", "gpus": 1, "variant": ["base", "fast", "same"]}],
}
OTHERS = {
    name: {
        "launcher": "none",
        "script": name,
        "log": {"format": "regex", "patterns": r"it (?P<step>\d+)"},
    }
    for name in ("bash", "zsh")
}

LOWEST_LOSS = (
    "The lowest held-out loss is 1.600 nats per token: tiny on 1 GPU by ours. "
    "Losses of several trainers compare only if they read the same text."
)
"""Runs of `write_run` have the same; the first is named."""


def test_the_matrix_has_the_means_over_seeds(make_grid: MakeGrid) -> None:
    grid = make_grid(SEEDS)
    steps = {1: (0.1, 0.1), 4: (0.1, 0.2)}  # GPUs -> step time of each seed, s
    for cell in grid[:4]:
        write_run(cell, steps[cell.gpus][cell.seed - 1])
    rows = list(zip(grid, throughput_rows(grid), strict=False))
    matrix = build_matrix(grid, rows, {grid[4].name: "failed", grid[6].name: "to run"})
    assert matrix.headings == ["1 GPU", "4 GPUs"]
    assert [label for label, _ in matrix.rows] == [
        f"tiny ({grid[0].params / 1e3:.0f}K)",
        f"wide ({grid[4].params / 1e3:.0f}K)",
    ]
    (_, (one, four)), (_, (failed, waiting)) = matrix.rows
    assert one is not None and four is not None and failed is not None and waiting is not None
    tokens = 8 * 64
    assert one.speed == tokens / 0.1
    assert four.speed == (tokens / 0.1 + tokens / 0.2) / 2
    assert four.efficiency == 0.75
    assert four.shade_of_efficiency == 0.5
    assert matrix.highest_mfu == one.mfu
    assert (matrix.shade_of_mfu(one), matrix.shade_of_mfu(four)) == pytest.approx((1.0, 0.1))
    assert (failed.state, waiting.state) == ("failed", "to run")
    findings = describe_findings(rows, by_gpus=True)
    assert "On 4 GPUs the scaling efficiency is 75% (median; 50% to 100% over 2 runs)." in findings
    # 2,048 tokens in 0.1 and in 0.2 s
    fastest = "The highest throughput is 15,360 tokens/s: tiny on 4 GPUs (mean of 2 runs)."
    assert findings[0].startswith(fastest)
    assert describe_request(grid) == (
        f"8 cells to measure: 2 models of {grid[0].params / 1e3:.0f}K to "
        f"{grid[4].params / 1e3:.0f}K parameters, on 1 and 4 GPUs of here (CPU core), with 2 "
        "seeds. Runs take 40 steps of 512 to 2.05K tokens."
    )


def test_the_variants_of_one_gpu_count(make_grid: MakeGrid) -> None:
    grid = make_grid(VARIANTS)
    for cell, step_s in zip(grid, (0.1, 0.08, 0.099), strict=True):
        write_run(cell, step_s)
    rows = list(zip(grid, throughput_rows(grid), strict=True))
    matrix = build_matrix(grid, rows, {})
    assert (matrix.corner, matrix.headings) == ("Variant", ["tiny"])
    assert [label for label, _ in matrix.rows] == ["base", "fast", "same"]
    assert "The fastest variant of tiny is fast: 1.25 × base." in describe_findings(rows, False)
    told = describe_findings([rows[0], rows[2]], False)
    assert "No variant of tiny is faster than base by more than 2%." in told


def test_of_many_names_the_last_stands_for_the_others(make_grid: MakeGrid) -> None:
    names = [f"v{number}" for number in range(1, 9)]
    block = {"cluster": "here", "model": "tiny", "gpus": 1, "variant": names}
    variants = {name: {"optim": {"lr": 0.1 / int(name[1:])}} for name in names}
    asked = describe_request(make_grid({"variants": variants, "grid": [block]}))
    assert "in 8 variants (v1, v2, v3, v4, v5 and 3 more). Runs" in asked
    block["variant"] = names[:6]
    asked = describe_request(make_grid({"variants": variants, "grid": [block]}))
    assert "in 6 variants (v1, v2, v3, v4, v5 and v6). Runs" in asked


def test_learning_rates_are_repeats_of_one_speed(make_grid: MakeGrid) -> None:
    """512 tokens in 0.1 and 0.05 s: 5,120 and 10,240 tokens/s; muon takes 0.06 s."""
    block = {"cluster": "here", "model": "tiny", "gpus": 1}
    muon = {"optim.lr": 1e-3, "optim.name": "muon"}
    grid = make_grid({"grid": [{**block, "sweep": {"optim.lr": [1e-3, 3e-3]}},
                               {**block, "sweep": muon}]})  # fmt: skip
    for cell, step_s in zip(grid, (0.1, 0.05, 0.06), strict=True):
        write_run(cell, step_s)
    rows = list(zip(grid, throughput_rows(grid), strict=True))
    found = describe_findings(rows[:2], by_gpus=False)
    assert found[0] == "The highest throughput is 7,680 tokens/s: tiny on 1 GPU (mean of 2 runs)."
    assert not any("variant" in text for text in found)
    name = grid[2].variant
    found = describe_findings(rows, by_gpus=False)
    assert found[0].startswith(f"The highest throughput is 8,533 tokens/s: tiny on 1 GPU, {name}.")
    # 8,533 / 7,680
    assert found[1] == f"The fastest variant of tiny is {name}: 1.11 × lr-0.001."


def test_runs_that_diverged_are_no_findings(make_grid: MakeGrid) -> None:
    """512 tokens in 0.1 s are 5,120 tokens/s: of base, whose seed 2 diverged, as did `hot`."""
    grid = make_grid({
        "variants": {"hot": {"optim": {"lr": 1e30}}},
        "grid": [{"cluster": "here", "model": "tiny", "gpus": 1, "seed": [1, 2]},
                 {"cluster": "here", "model": "tiny", "gpus": 1, "variant": "hot"}],
    })  # fmt: skip
    write_run(grid[0], 0.1)
    for cell in grid[1:]:
        write_run(cell, 0.02, outcome="diverged", steps_done=5, loss_validation=0.5)
    rows = list(zip(grid, throughput_rows(grid), strict=True))
    assert describe_findings(rows, by_gpus=False) == [
        "The highest throughput is 5,120 tokens/s: tiny on 1 GPU.",
        "The lowest held-out loss is 1.600 nats per token: tiny on 1 GPU.",
    ]
    speeds = [values[0].speed for _, values in build_matrix(grid, rows, {}).rows if values[0]]
    assert speeds == pytest.approx([5120, 25_600])
    assert describe_findings(rows[1:], False) == ["Every run measured so far has diverged."]


def test_variants_are_compared_on_one_cluster(make_grid: MakeGrid) -> None:
    """The mean of the variant's runs is 5.62 × base, by the other cluster's GPU."""
    block = {"model": "tiny", "gpus": 1}
    grid = make_grid({**VARIANTS, "grid": [
        {**block, "cluster": "here", "variant": ["base", "fast"]},
        {**block, "cluster": "fast", "variant": "fast"},
    ]})  # fmt: skip
    for cell, step_s in zip(grid, (0.1, 0.08, 0.01), strict=True):
        write_run(cell, step_s)
    rows = list(zip(grid, throughput_rows(grid), strict=True))
    told = describe_findings(rows, by_gpus=False)
    assert "The fastest variant of tiny on here is fast: 1.25 × base." in told


def test_trainers_are_called_trainers_and_ours_by_its_name(make_grid: MakeGrid) -> None:
    block = {"cluster": "here", "model": ["tiny", "wide"], "gpus": 1, "trainer": ["ours", *OTHERS]}
    grid = make_grid({"trainers": OTHERS, "grid": [block]})
    for cell in grid:
        write_run(cell, {"ours": 0.1, "bash": 0.08, "zsh": 0.25}[cell.trainer])
    rows = list(zip(grid, throughput_rows(grid), strict=True))
    assert describe_request(grid) == (
        f"6 cells to measure: 2 models of {grid[0].params / 1e3:.0f}K to "
        f"{grid[3].params / 1e3:.0f}K parameters, on 1 GPU of here (CPU core), by 3 trainers "
        "(ours, bash and zsh). Runs take 40 steps of 512 tokens."
    )
    matrix = build_matrix(grid, rows, {})
    assert (matrix.corner, matrix.headings) == ("Trainer", ["tiny", "wide"])
    assert [label for label, _ in matrix.rows] == ["ours", "bash", "zsh"]
    findings = describe_findings(rows, by_gpus=False)
    assert findings[0] == "The highest throughput is 6,400 tokens/s: tiny on 1 GPU by bash."
    assert findings[1] == "The fastest trainer of tiny is bash: 1.25 × ours."
    assert findings[2:] == [LOWEST_LOSS]  # nothing of variants
    # wherever ours is in the grid
    last = describe_findings(rows[::-1], by_gpus=False)
    assert last[1] == "The fastest trainer of wide is bash: 1.25 × ours."
    slower = [(cell, row) for cell, row in rows if cell.trainer != "bash"]
    found = describe_findings(slower, by_gpus=False)
    assert "No trainer of tiny is faster than ours by more than 2%." in found
    # Another trainer alone is not a variant either.
    alone = make_grid({"trainers": OTHERS, "grid": [{**block, "trainer": "zsh"}]})
    assert " by 1 trainer (zsh). Runs" in describe_request(alone)


def test_trainers_with_variants(make_grid: MakeGrid) -> None:
    grid = make_grid(
        {
            "trainers": OTHERS,
            "variants": {"fast": {"optim": {"clip": None}}},
            "grid": [
                {"cluster": "here", "model": "tiny", "gpus": 1, "trainer": ["ours", "zsh"],
                 "variant": ["base", "fast"]},
            ],
        }
    )  # fmt: skip
    names = ["ours", "ours, fast", "zsh", "zsh, fast"]
    for cell, step_s in zip(grid, (0.1, 0.08, 0.05, 0.02), strict=True):
        write_run(cell, step_s)
    rows = list(zip(grid, throughput_rows(grid), strict=True))
    asked = "by 2 trainers (ours and zsh), in 2 variants (base and fast)."
    assert asked in describe_request(grid)
    matrix = build_matrix(grid, rows, {})
    assert matrix.corner == "Trainer and variant"
    assert [label for label, _ in matrix.rows] == names
    assert describe_findings(rows, by_gpus=False) == [
        "The highest throughput is 25,600 tokens/s: tiny on 1 GPU by zsh, fast.",
        "The fastest trainer of tiny is zsh: 2.00 × ours.",
        "The fastest variant of tiny by ours is fast: 1.25 × base.",
        LOWEST_LOSS,
    ]
    assert describe_findings([rows[1], rows[3]], by_gpus=False)[1] == (
        "The fastest trainer of tiny in variant fast is zsh: 4.00 × ours."
    )


def test_trainers_on_several_gpu_counts(make_grid: MakeGrid) -> None:
    block = {"cluster": "here", "model": "tiny", "gpus": [1, 2], "trainer": ["ours", "zsh"]}
    grid = make_grid({"trainers": OTHERS, "grid": [block]})
    times = {("ours", 1): 0.1, ("ours", 2): 0.125, ("zsh", 1): 0.08, ("zsh", 2): 0.16}
    for cell in grid:
        write_run(cell, times[cell.trainer, cell.gpus])
    rows = list(zip(grid, throughput_rows(grid), strict=True))
    matrix = build_matrix(grid, rows, {})
    size = f"{grid[0].params / 1e3:.0f}K"
    assert matrix.corner == "Model"
    assert [label for label, _ in matrix.rows] == [f"tiny ({size}), ours", f"tiny ({size}), zsh"]
    assert describe_findings(rows, by_gpus=True)[1:] == [
        "On 2 GPUs the scaling efficiency of ours is 80%. "
        "On 2 GPUs the scaling efficiency of zsh is 50%.",
        "The fastest trainer of tiny on 1 GPU is zsh: 1.25 × ours.",
        LOWEST_LOSS,
    ]


def test_findings_name_the_cluster_if_there_are_several(make_grid: MakeGrid) -> None:
    grid = make_grid(
        {
            "clusters": {"there": {"device": "cpu", "gpu_name": "CPU core", "gpus_per_node": 4}},
            "grid": [
                {"cluster": "here", "model": "tiny", "gpus": [1, 4]},
                {"cluster": "there", "model": "tiny", "gpus": [1, 2]},
            ],
        }
    )
    for cell, step_s in zip(grid, (0.1, 0.125, 0.2, 0.4), strict=True):
        write_run(cell, step_s)
    rows = list(zip(grid, throughput_rows(grid), strict=True))
    assert describe_findings(rows, by_gpus=True) == [
        "The highest throughput is 16,384 tokens/s: tiny on 4 GPUs of here.",
        "On 4 GPUs of here the scaling efficiency is 80%. "
        "On 2 GPUs of there the scaling efficiency is 50%.",
        "The lowest held-out loss is 1.600 nats per token: tiny on 1 GPU of here.",
    ]


def test_of_many_gpu_counts_the_ends_are_named(make_grid: MakeGrid) -> None:
    block = {"cluster": "here", "model": "tiny", "gpus": [2**n for n in range(8)]}
    grid = make_grid({"clusters": {"here": {"gpus_per_node": 128}}, "grid": [block]})
    assert "on 1 to 128 GPUs (8 counts) of here (CPU core)." in describe_request(grid)


def test_every_column_is_defined() -> None:
    tables = [throughput_definitions(), check_definitions(), backtest_definitions()]
    for definitions in (*tables, estimate_definitions("500 steps")):
        assert all(text.endswith(".") for text in definitions.values()), definitions
