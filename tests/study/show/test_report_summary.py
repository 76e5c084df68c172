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
    "variants": {"fast": {"optim": {"lr": 0.1}}, "same": {"optim": {"lr": 0.2}}},
    "grid": [{"cluster": "here", "model": "tiny", "gpus": 1, "variant": ["base", "fast", "same"]}],
}


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
    assert (failed.state, waiting.state) == ("failed", "to run")
    findings = describe_findings(rows, by_gpus=True)
    assert "On 4 GPUs the scaling efficiency is 75% (median; 50% to 100% over 2 runs)." in findings
    assert findings[0].startswith("The highest throughput is 20,480 tokens/s: tiny on 4 GPUs.")
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
    assert matrix.headings == ["tiny"]
    assert [label for label, _ in matrix.rows] == ["base", "fast", "same"]
    assert "The fastest variant of tiny is fast: 1.25 × base." in describe_findings(rows, False)
    told = describe_findings([rows[0], rows[2]], False)
    assert "No variant of tiny is faster than base by more than 2%." in told


def test_every_column_is_defined() -> None:
    tables = [throughput_definitions(), check_definitions(), backtest_definitions()]
    for definitions in (*tables, estimate_definitions("500 steps")):
        assert all(text.endswith(".") for text in definitions.values()), definitions
