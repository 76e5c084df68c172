import csv
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.grid import Cell
from study.measure.run_files import read_run
from study.measure.throughput import step_quantiles, throughput_rows
from study.measure.throughput_row import ThroughputRow
from study.measure.throughput_table import (
    is_numeric,
    markdown_table,
    other_versions,
    read_table,
    readable_throughput,
    to_frame,
    to_markdown,
    write_table,
)
from tests.study.conftest import (
    GUIDE,
    MakeGrid,
    make_record,
    throughput_table,
    write_lines,
    write_run,
)
from trainer.flops import utilisation
from trainer.problems import ConfigError
from trainer.records import Record

CONTRACT = """cluster, gpu_name, model, params, gpus, nodes, variant, seed, seq_len,
batch_size_per_gpu, grad_acc_steps, tokens_per_step, steps, steady_steps, step_ms_p50, step_ms_p90,
tokens_per_s, tokens_per_s_per_gpu, tflops_per_gpu, mfu, mfu_causal, scaling_efficiency,
peak_memory_gib, startup_s, wall_s, loss_first, loss_last, status, torch_version, commit"""


def record(step: int, steps: int, step_s: float, attempt: int = 1) -> Record:
    return Record(
        step=step,
        loss=1.0,
        tokens=step,
        elapsed_s=1.0,
        step_s=step_s,
        interval_steps=steps,
        attempt=attempt,
    )


def test_columns_are_those_of_the_contract_followed_by_ours() -> None:
    contract = [name.strip() for name in CONTRACT.split(",")]
    columns = [field.name for field in fields(ThroughputRow)]
    assert columns[: len(contract)] == contract
    assert columns[len(contract) :][:3] == ["val_loss", "attempts", "measured_with"]


def test_the_guides_row(make_grid: MakeGrid) -> None:
    """8x H200, 27.5M parameters, 75K tokens/s/GPU: calculated by hand from the group's guide."""
    grid = make_grid(GUIDE)
    write_run(grid[0], step_s=131_072 / 600_000, startup_s=40.0)
    row = throughput_table(grid).iloc[0]
    assert (row["params"], row["tokens_per_step"]) == (27_535_872, 131_072)
    assert row["steady_steps"] == 499  # all but the first step, whose interval holds the start-up
    assert row["step_ms_p50"] == pytest.approx(218.453, abs=1e-3)
    assert row["tokens_per_s_per_gpu"] == pytest.approx(75_000)
    # 6 * (27,535,872 - 258 * 512) + 12 * 8 * 2048 * 512 = 265,085,952 FLOPs per token
    assert row["tflops_per_gpu"] == pytest.approx(75_000 * 265_085_952 / 1e12)
    assert row["mfu"] == pytest.approx(0.0200924, rel=1e-5)
    # half of the 100,663,296 FLOPs of attention fall away under a causal mask
    assert row["mfu_causal"] == pytest.approx(75_000 * 214_754_304 / 989.5e12)
    assert (row["startup_s"], row["wall_s"]) == (40.0, pytest.approx(40 + 499 * 0.218453, rel=1e-5))


@pytest.mark.parametrize(("last_began_at", "expected"), [(1, 4.5), (20, None)])
def test_the_startup_is_that_of_an_attempt_from_the_first_step(
    make_grid: MakeGrid, last_began_at: int, expected: float | None
) -> None:
    """The first one had other settings, and the second one was killed while it started."""
    grid = make_grid()
    cell = grid[0]
    attempts = [
        {
            "attempt": number,
            "start": "2026-01-01T00:00:00+00:00",
            "fingerprint": fingerprint,
            "first_step": first_step,
            "startup": startup,
        }
        for number, fingerprint, first_step, startup in (
            (1, "0" * 16, 1, {"total_s": 9.0}),
            (2, cell.fingerprint, 1, {"imports_s": 1.0}),
            (3, cell.fingerprint, last_began_at, {"total_s": 4.5}),
        )
    ]
    write_run(cell, attempts=attempts)
    (row,) = throughput_rows(grid)
    assert row.startup_s == expected


@pytest.mark.parametrize(
    ("began_at", "expected"),
    [((1,), False), ((1, 20), False), ((1, 1), True), ((1, 20, 1), True)],
)
def test_a_trainer_that_does_not_resume_may_have_begun_again(
    make_grid: MakeGrid, began_at: tuple[int, ...], expected: bool
) -> None:
    plain = {"module": "plain", "log": {"format": "ours"}}
    entry = {"cluster": "here", "model": "tiny", "gpus": 1, "trainer": ["plain", "ours"]}
    grid = make_grid({"trainers": {"plain": plain}, "grid": [entry]})
    for cell in grid:
        attempt = {"start": "2026-01-01T00:00:00+00:00", "fingerprint": cell.fingerprint}
        attempts = [
            {**attempt, "attempt": n, "first_step": step} for n, step in enumerate(began_at, 1)
        ]
        # of another version of the settings, which begins at the first step, too
        write_run(cell, attempts=[{**attempts[0], "fingerprint": "0" * 16}, *attempts])
    plain_row, ours = throughput_rows(grid)
    assert (plain_row.began_again, ours.began_again) == (expected, None)


def test_a_row_has_what_the_run_recorded_of_itself(make_grid: MakeGrid) -> None:
    grid = make_grid()
    choices = {"threads": 3, "model_dtype": "bf16", "compiled": True, "attention": "flash"}
    facts = {"device": "cpu", "machine_cores": 5, "gpu_name": "EPYC", "steps_done": 39}
    ended = {"status": "failed", "outcome": None, "peak_memory_gib": 2.5, "loss_validation": 1.25}
    write_run(grid[2], choices=choices, **facts, **ended)
    (row,) = throughput_rows(grid)
    for name, value in (choices | facts).items():
        assert getattr(row, name) == value, name
    assert (row.status, row.outcome, row.peak_memory_gib) == ("failed", None, 2.5)
    assert (row.val_loss, row.measured_with, row.torch_version) == (1.25, "aaaa", "2.13.0")
    # its first and last training losses, 6 / (1 + step / 50)
    assert (row.loss_first, row.loss_last) == pytest.approx((6 / 1.02, 6 / 1.8))
    assert (row.commit, row.started) == ("0123456789abcdef", "2026-01-01T00:00:00+00:00")
    assert (row.cell_name, row.fingerprint, row.speed_key) == (
        grid[2].name, grid[2].fingerprint, grid[2].speed_key,
    )  # fmt: skip
    assert (row.attempts, row.first_step, row.began_again, row.trainer) == (1, 1, None, "ours")


def test_a_row_has_the_shape_of_its_cell(make_grid: MakeGrid) -> None:
    """16 GPUs on two nodes with 3 micro-batches of 4 x 32 tokens each; 20 of 24 steps were done."""
    run = {"steps": 24, "grad_acc_steps": 3, "data": {"batch_size": 4, "seq_len": 32}}
    grid = make_grid({"run": run, "grid": [{"cluster": "fast", "model": "tiny", "gpus": 16}]})
    write_run(grid[0], status="running", outcome=None, steps_done=20, step_s=0.25)
    (row,) = throughput_rows(grid)
    assert (row.gpus, row.nodes, row.batch_size_per_gpu, row.grad_acc_steps) == (16, 2, 4, 3)
    assert (row.seq_len, row.tokens_per_step) == (32, 6144)
    assert (row.steps, row.steps_done) == (24, 20)
    assert (row.tokens_per_s, row.tokens_per_s_per_gpu) == (6144 / 0.25, 6144 / 0.25 / 16)


def test_the_mean_step_time_and_its_error_match_a_calculation_by_hand(make_grid: MakeGrid) -> None:
    """Intervals of 9, 10, 10 and 10 steps of 100, 200, 100 and 200 ms, of which 20 are the longer.

    Of their weighted deviations the squares add up to 625.04, and 4 of 3 times that is 28.868^2.
    """
    grid = make_grid()
    write_run(grid[0], step_s=[0.1, 0.2])
    (row,) = throughput_rows(grid)
    assert (row.steady_steps, row.steady_intervals) == (39, 4)
    assert row.step_ms_mean == pytest.approx((19 * 100 + 20 * 200) / 39)
    assert row.step_ms_mean_error == pytest.approx(28.868, abs=1e-3)
    assert (row.step_ms_p10, row.step_ms_p50, row.step_ms_p90) == pytest.approx((100, 200, 200))


def test_an_interval_with_a_pause_of_unknown_length_is_not_in_steady_state(
    make_grid: MakeGrid,
) -> None:
    """Records at steps 1, 10, 20, 30 and 40; the third one's time includes another's save."""
    grid = make_grid()
    write_run(grid[0], step_s=[0.1, 9.0, 0.1, 0.1])
    path = Path(grid[0].folder, "metrics.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    marks = (None, False, True, None, False)
    write_lines(
        path, [item | {"time/paused": mark} for item, mark in zip(records, marks, strict=True)]
    )
    (row,) = throughput_rows(grid)
    assert (row.steady_steps, row.steady_intervals) == (29, 3)
    assert (row.step_ms_mean, row.step_ms_p90) == pytest.approx((100, 100))


def test_mfu_matches_published_tables() -> None:
    """MPT-760M on 32 H100, from the benchmarking README of mosaicml/llm-foundry: 37.57%."""
    params, dim, layers, seq_len, tokens_per_s_per_gpu = 760_470_528, 1536, 24, 2048, 67_971
    flops = 6 * params + 12 * layers * seq_len * dim
    assert utilisation(tokens_per_s_per_gpu, flops, 989.5) == pytest.approx(0.3757, abs=5e-5)


def test_without_a_known_peak_utilisation_is_empty_and_speed_is_not(make_grid: MakeGrid) -> None:
    grid = make_grid()
    write_run(grid[0])
    row = throughput_table(grid).iloc[0]
    assert pd.isna(row["mfu"])
    assert pd.isna(row["mfu_causal"])
    assert row["tokens_per_s"] == pytest.approx(8 * 64 / 0.1)


RATES = {
    "matmul_tflops": 790,
    "copy_tb_s": 4.3,
    "attention_forward_tflops": 400,
    "attention_backward_tflops": 330,
}


def test_the_fraction_of_the_roofline_is_for_one_gpu_with_rates(make_grid: MakeGrid) -> None:
    """27.5M on one H200 at half of 2.0M tokens/s; with 8 GPUs, communication is not counted."""
    grid = make_grid(
        {
            **GUIDE,
            "clusters": {"fast": {"rates": RATES}},
            "variants": {"exact": {"distributed": {"model_dtype": "fp32"}}},
            "grid": [
                {"cluster": "fast", "model": "small", "gpus": [1, 8]},
                {"cluster": "fast", "model": "small", "gpus": 1, "variant": "exact"},
                {"cluster": "here", "model": "small", "gpus": 1},
            ],
        }
    )
    for cell in grid:
        write_run(cell, step_s=0.016)
    table = throughput_table(grid)
    assert table["roofline_fraction"].iloc[0] == pytest.approx(0.5, rel=0.02)
    assert table["roofline_fraction"].iloc[1:].isna().all()
    assert "Of roofline (%)" in to_markdown(table)
    assert "Of roofline (%)" not in to_markdown(table.iloc[1:])
    # The rates are of bf16, which is what the settings lead to, but not what the run chose.
    write_run(grid[0], step_s=0.016, choices={"model_dtype": "fp32"})
    assert throughput_rows(grid)[0].roofline_fraction is None


def test_flops_use_the_context_that_the_run_recorded(make_grid: MakeGrid) -> None:
    """27.5M with documents in which a token attends to 100 keys; without the entry, to S/2."""
    cluster = {"fast": {"rates": RATES}}
    grid = make_grid({**GUIDE, "clusters": cluster, "grid": [GUIDE["grid"][0] | {"gpus": 1}]})
    write_run(grid[0])
    whole = throughput_table(grid).iloc[0]
    write_run(grid[0], attention_context=1024.0)
    assert throughput_table(grid).iloc[0].equals(whole)
    write_run(grid[0], attention_context=100.0)
    row = throughput_table(grid).iloc[0]
    # 6 * 27,403,776 = 164,422,656 of weights; 24 * 8 * 512 and 12 * 8 * 512 a key
    assert row["mfu"] / whole["mfu"] == pytest.approx((164_422_656 + 98_304 * 100) / 265_085_952)
    assert row["mfu_causal"] / whole["mfu_causal"] == pytest.approx(
        (164_422_656 + 49_152 * 100) / 214_754_304
    )
    assert row["tflops_per_gpu"] * 1e12 == pytest.approx(
        row["tokens_per_s_per_gpu"] * (164_422_656 + 98_304 * 100)
    )
    # The roofline of fewer FLOPs is a faster step: attention was 35% of it (docs/roofline.md).
    share = 1 - 0.349 * (1 - 100 / 1024)
    assert row["roofline_fraction"] / whole["roofline_fraction"] == pytest.approx(share, rel=2e-3)


def shown(table: pd.DataFrame, heading: str) -> list[str]:
    """Return a column as shown to people."""
    headings, rows = readable_throughput(table)
    return [row[headings.index(heading)] for row in rows]


def test_the_table_for_people_has_the_units_of_its_headings(make_grid: MakeGrid) -> None:
    grid = make_grid(GUIDE)
    write_run(grid[0])
    (row,) = throughput_rows(grid)
    times = {"step_ms_p50": 218.453, "step_ms_p90": 301.26, "startup_s": 41.26, "wall_s": 4321.0}
    speeds = {"tokens_per_s": 600_000.4, "tokens_per_s_per_gpu": 75_000.05, "tflops_per_gpu": 19.88}
    shares = {"mfu": 0.0201, "roofline_fraction": 0.25, "scaling_efficiency": 0.875}
    others = {"peak_memory_gib": 12.34, "loss_first": 9.0, "loss_last": 3.1416, "val_loss": 3.25}
    table = to_frame([replace(row, **times, **speeds, **shares, **others)])
    headings, (cells,) = readable_throughput(table)
    assert dict(zip(headings, cells, strict=True)) == {
        "Cluster": "fast", "GPU": "H200", "Model": "small", "Params (M)": "27.5", "GPUs": "8",
        "Variant": "base", "Seed": "42", "Tokens/step": "131,072", "Step p50 (ms)": "218.5",
        "Step p90 (ms)": "301.3", "Tokens/s": "600,000", "Tokens/s/GPU": "75,000",
        "TFLOP/s/GPU": "19.9", "MFU (%)": "2.0", "Of roofline (%)": "25.0",
        "Scaling eff. (%)": "87.5", "Memory (GiB)": "12.3", "Start-up (s)": "41.3",
        "Wall (s)": "4,321", "Loss": "3.142", "Val. loss": "3.250", "Status": "completed",
    }  # fmt: skip


def test_a_speed_above_the_peak_is_marked_and_explained(make_grid: MakeGrid) -> None:
    """27.5M needs 265 MFLOPs a token: 4.4 million tokens a second are 118% of 989.5 TFLOP/s."""
    grid = make_grid({**GUIDE, "grid": [{"cluster": "fast", "model": "small", "gpus": [1, 2]}]})
    write_run(grid[0], step_s=16_384 / 4.4e6)
    write_run(grid[1], step_s=2 * 16_384 / 4.4e6)
    table = throughput_table(grid)
    assert shown(table, "MFU (%)") == ["117.9†", "58.9"]
    note = "note: † above 100%, which no GPU reaches: peak_tflops or rates of fast in clusters.yaml"
    assert note in to_markdown(table)
    assert "†" not in to_markdown(table.iloc[1:])
    assert "†" not in to_markdown(table.assign(mfu=1.0))
    assert to_markdown(table).endswith("see mfu_causal in throughput.csv.\n")
    # A mark does not turn numbers into text: they stay to the right.
    assert is_numeric(["117.9†", "58.9", ""])
    assert not is_numeric(["†"])


def test_long_steps_and_startups_are_plain_numbers(make_grid: MakeGrid) -> None:
    grid = make_grid()
    write_run(grid[0], step_s=12.3456, startup_s=3725.0)
    write_run(grid[1], step_s=0.0123456)
    table = throughput_table(grid)
    assert shown(table, "Step p50 (ms)") == ["12,346", "12.35"]
    assert shown(table, "Step p90 (ms)") == ["12,346", "12.35"]
    assert shown(table, "Start-up (s)") == ["3,725", "4"]
    assert "e+" not in to_markdown(table)


def test_a_speed_above_the_roofline_is_marked_too(make_grid: MakeGrid) -> None:
    """At a peak twice as high MFU is possible, but the rates allow 2.07 million tokens a second."""
    changes = {**GUIDE, "clusters": {"fast": {"rates": RATES, "peak_tflops": 2000}}}
    grid = make_grid({**changes, "grid": [{"cluster": "fast", "model": "small", "gpus": 1}]})
    write_run(grid[0], step_s=16_384 / 4.4e6)
    table = throughput_table(grid)
    assert shown(table, "MFU (%)") == ["58.3"]
    assert shown(table, "Of roofline (%)") == ["213.0†"]
    assert "note: †" in to_markdown(table)
    write_run(grid[0], step_s=16_384 / 1e6)
    assert "†" not in to_markdown(throughput_table(grid))


def test_the_table_says_which_runs_it_lacks_and_why(make_grid: MakeGrid, tmp_path: Path) -> None:
    """One whose study was edited while it ran, and one whose folder was deleted meanwhile."""
    grid = make_grid()
    write_run(grid[0], fingerprint="0" * 16)
    write_run(grid[1])
    Path(grid[1].folder, "metrics.jsonl").unlink()
    left_out: dict[str, str] = {}
    rows = throughput_rows(grid, left_out)
    write_table(rows, tmp_path / "throughput.csv", left_out=left_out)
    text = (tmp_path / "throughput.md").read_text()
    assert text.startswith("No run has been measured yet.\n")
    assert f"note: {grid[0].name} left out: the settings have changed since the run.\n" in text
    assert f"note: {grid[1].name} left out: metrics.jsonl: ends at step 0; expected step" in text


def test_without_runs_the_table_is_empty(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    assert throughput_table(grid).empty
    write_table(throughput_rows(grid), tmp_path / "throughput.csv")
    names = [field.name for field in fields(ThroughputRow)]
    assert (tmp_path / "throughput.csv").read_text() == ",".join(names) + "\n"
    assert (tmp_path / "throughput.md").read_text() == "No run has been measured yet.\n"
    assert read_table(tmp_path / "throughput.csv").empty


def test_a_run_that_failed_immediately_has_empty_cells_and_no_zeros(make_grid: MakeGrid) -> None:
    grid = make_grid()
    write_run(grid[0], status="failed", outcome=None, peak_memory_gib=None, loss_validation=None)
    Path(grid[0].folder, "metrics.jsonl").unlink()
    row = throughput_table(grid).iloc[0]
    assert row["status"] == "failed"
    assert row["steady_steps"] == 0
    missing = ["step_ms_p50", "tokens_per_s", "tflops_per_gpu", "scaling_efficiency", "loss_last"]
    assert row[[*missing, "peak_memory_gib", "val_loss"]].isna().all()


def test_a_diverged_run_is_a_result(make_grid: MakeGrid) -> None:
    grid = make_grid()
    write_run(grid[0], loss=lambda step: 3.0 if step < 30 else None, outcome="diverged")
    table = throughput_table(grid)
    assert table["outcome"][0] == "diverged"
    assert pd.isna(table["loss_last"][0])
    assert table["tokens_per_s"].notna().all()
    assert "diverged" in to_markdown(table)
    write_run(grid[0], loss=lambda step: None, outcome="diverged")
    (row,) = throughput_rows(grid)
    assert (row.loss_first, row.loss_last) == (None, None)


def write_attempts(cell: Cell, intervals: Sequence[tuple[int, int, int, float]]) -> None:
    """Write records of (last step, steps, attempt, seconds a step)."""
    records = [
        make_record(cell, step, steps, step_s, 10.0, 1.0) | {"attempt": attempt}
        for step, steps, attempt, step_s in intervals
    ]
    write_lines(Path(cell.folder, "metrics.jsonl"), records)


def test_each_attempts_first_interval_and_earlier_settings_are_left_out(
    make_grid: MakeGrid,
) -> None:
    cell = make_grid()[0]
    write_run(cell)
    now = cell.run.fingerprint(cell.gpus)
    times = [(1, 1, 1, 9.0), (10, 9, 1, 1.0), (20, 10, 2, 9.0), (25, 5, 2, 2.0)]
    times += [(30, 5, 3, 9.0), (35, 5, 3, 3.0), (40, 5, 3, 4.0)]
    write_attempts(cell, times)
    path = Path(cell.folder, "run.json")
    summary = json.loads(path.read_text())
    first = summary["attempts"][0]
    summary["attempts"] = [
        first
        | {
            "attempt": number,
            "fingerprint": fingerprint,
            "first_step": step,
            "start": f"day {number}",
        }
        for number, fingerprint, step in ((1, now, 1), (2, "0" * 16, 11), (3, now, 26))
    ]
    path.write_text(json.dumps(summary))
    row = throughput_table(make_grid()).iloc[0]
    # left: 9 steps of 1 s in the first attempt; 5 of 3 s and 5 of 4 s in the third
    assert row["steady_steps"] == 19
    assert row["step_ms_p50"] == pytest.approx(3000)
    assert (row["attempts"], row["first_step"], row["started"]) == (3, 1, "day 3")


def test_quantiles_count_steps_not_intervals() -> None:
    # 90 steps of 1 s and a last interval of 10 steps of 2 s: the median step takes 1 s.
    assert step_quantiles(np.array([1.0, 2.0]), np.array([90, 10]), [0.5]) == [1.0]
    assert step_quantiles(np.array([]), np.array([], int), [0.5, 0.9]) == [None, None]


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0.01, 10)), min_size=1, max_size=20))
def test_quantiles_are_those_of_the_steps(intervals: list[tuple[int, float]]) -> None:
    counts, times_s = map(np.array, zip(*intervals, strict=True))
    steps = [time_s for count, time_s in intervals for _ in range(count)]
    p10, p50, p90 = step_quantiles(times_s, counts, [0.1, 0.5, 0.9])
    assert p50 == pytest.approx(np.median(steps))
    assert p10 is not None and p50 is not None and p90 is not None
    assert min(steps) <= p10 <= p50 <= p90 <= max(steps)


STRONG = {
    "variants": {"strong": {}, "hot": {"optim": {"lr": 1e-2}}},
    "grid": [
        {"cluster": "here", "model": "tiny", "gpus": [1, 2]},
        {"cluster": "here", "model": "tiny", "gpus": [2, 4], "variant": "strong",
         "global_batch_size": 8},
        {"cluster": "here", "model": "tiny", "gpus": [2, 4], "variant": "hot"},
    ],
}  # fmt: skip


def efficiencies(make_grid: MakeGrid, speeds: dict[str, float]) -> dict[str, float]:
    """Run the cells named, at these tokens/s/GPU."""
    grid = make_grid(STRONG)
    for cell in grid:
        speed = speeds.get(short_name(cell))
        if speed is not None:
            write_run(cell, step_s=cell.tokens_per_step / cell.gpus / speed)
    table = throughput_table(grid)
    names = table["variant"] + "-" + table["gpus"].astype("string")
    return dict(zip(names, table["scaling_efficiency"].round(6), strict=True))


def short_name(cell: Cell) -> str:
    return f"{cell.variant}-{cell.gpus}"


def test_efficiency_is_relative_to_the_smallest_count_with_equal_settings(
    make_grid: MakeGrid,
) -> None:
    speeds = {"base-1": 1000.0, "base-2": 900.0, "strong-2": 800.0, "strong-4": 600.0}
    speeds |= {"hot-2": 500.0, "hot-4": 250.0}
    assert efficiencies(make_grid, speeds) == {
        "base-1": 1.0,
        "base-2": 0.9,
        "strong-2": 0.8,  # overrides nothing, so base on one GPU is its reference
        "strong-4": 0.6,
        "hot-2": 1.0,  # other settings: base is no reference for it
        "hot-4": 0.5,
    }


def test_efficiency_without_the_smallest_count(make_grid: MakeGrid) -> None:
    speeds = {"base-2": 900.0, "strong-2": 800.0, "strong-4": 600.0}
    assert efficiencies(make_grid, speeds) == {"base-2": 1.0, "strong-2": 1.0, "strong-4": 0.75}


def test_rows_measured_with_a_different_trainer_are_marked(make_grid: MakeGrid) -> None:
    grid = make_grid()
    write_run(grid[0], trainer_version="old")
    for cell in grid[1:]:
        write_run(cell)
        path = Path(cell.folder, "run.json")
        path.write_text(path.read_text().replace("2026-01-01T00:00", "2026-02-01T00:00"))
    text = to_markdown(throughput_table(grid))
    assert text.count("*") == 2  # the row, and the note
    assert "tiny*" in text
    assert "note: \\* measured with a different version of the trainer" in text


def test_rows_measured_with_another_torch_are_marked_in_their_cluster(make_grid: MakeGrid) -> None:
    """`fast` has another torch than `here`, as clusters may, and a run of an older one."""
    grid = make_grid({"grid": [{"cluster": ["here", "fast"], "model": "tiny", "gpus": [1, 2]}]})
    for cell, torch, month in zip(grid, ("2.5.0", "2.5.0", "2.13.0", "2.5.0"), "1432", strict=True):
        versions = {"versions": {"torch": torch}}
        write_run(cell, **versions)
        path = Path(cell.folder, "run.json")
        path.write_text(path.read_text().replace("2026-01-01T00:00", f"2026-0{month}-01T00:00"))
    text = to_markdown(throughput_table(grid))
    assert text.count("tiny*") == 1
    (marked,) = [line for line in text.splitlines() if "tiny*" in line]
    cluster, _, _, _, gpus, *_ = (cell.strip() for cell in marked.split("|")[1:])
    assert (cluster, gpus) == ("fast", "2")
    assert "or of torch than the newest on its cluster.\n" in text


def test_versions_are_compared_with_the_newest_run_of_the_same_trainer(
    make_grid: MakeGrid,
) -> None:
    """Another trainer's newest run says nothing of ours; nor does a run of an unknown version."""
    grid = make_grid()
    write_run(grid[0])
    (row,) = throughput_rows(grid)
    runs = (
        ("ours", "2026-01", "old"),
        ("ours", "2026-02", None),
        ("ours", "2026-03", "new"),
        ("plain", "2026-04", "other"),
        ("plain", "2026-05", None),
    )
    table = to_frame(
        [replace(row, trainer=t, started=when, measured_with=version) for t, when, version in runs]
    )
    assert other_versions(table) == [0, 3]  # of plain, the newest run's version is not known


def test_another_trainer_has_a_column_of_its_own(make_grid: MakeGrid) -> None:
    grid = make_grid()
    write_run(grid[0])
    (row,) = throughput_rows(grid)
    other = replace(row, trainer="plain", variant="plain+hot", plain_variant="hot")
    table = to_frame([row, other])
    assert shown(table, "Trainer") == ["ours", "plain"]
    assert shown(table, "Variant") == ["base", "hot"]
    assert "Trainer" not in readable_throughput(to_frame([row]))[0]


def test_only_a_run_with_a_speed_lacks_a_peak(make_grid: MakeGrid) -> None:
    """`fast` has one, but its only run ended before the first step; `here` has none."""
    grid = make_grid({"grid": [{"cluster": ["here", "fast"], "model": "tiny", "gpus": 1}]})
    write_run(grid[0])
    write_run(grid[1], status="failed", outcome=None)
    Path(grid[1].folder, "metrics.jsonl").unlink()
    note = "note: no MFU for here: clusters.yaml has no peak_tflops of the GPU that ran."
    assert note in to_markdown(throughput_table(grid))
    assert "no MFU" not in to_markdown(throughput_table(grid).iloc[1:])


@pytest.mark.parametrize(
    ("ran_on", "known"),
    [("NVIDIA H200", True), (None, True), ("NVIDIA A100-SXM4-80GB", False)],
)
def test_a_fraction_is_of_the_gpu_that_ran(
    make_grid: MakeGrid, ran_on: str | None, known: bool
) -> None:
    """The cluster has H200s by now; a run on its A100s has no fraction of their peak."""
    rates = {"matmul_tflops": 700, "copy_tb_s": 4, "attention_forward_tflops": 500,
             "attention_backward_tflops": 400}  # fmt: skip
    grid = make_grid(
        {
            "clusters": {"fast": {"rates": rates}},
            "grid": [{"cluster": "fast", "model": "tiny", "gpus": 1}],
        }
    )
    write_run(grid[0], gpu_name=ran_on)
    (row,) = throughput_rows(grid)
    fractions = row.mfu, row.mfu_causal, row.roofline_fraction
    assert [value is not None for value in fractions] == [known] * 3
    assert row.tflops_per_gpu is not None
    assert ("no MFU for fast" in to_markdown(to_frame([row]))) != known


def test_the_table_is_read_back_as_written(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid({"grid": [{"cluster": ["here", "fast"], "model": "tiny", "gpus": [1, 2]}]})
    for cell in grid:
        write_run(cell)
    write_table(throughput_rows(grid), tmp_path / "throughput.csv")
    table = throughput_table(grid)
    pd.testing.assert_frame_equal(read_table(tmp_path / "throughput.csv"), table, rtol=1e-6)
    assert "MFU (%)" in (tmp_path / "throughput.md").read_text()


@pytest.mark.parametrize("text", ["", "a,b\n", "a,b\n1,2\n", "cluster,model,gpus\n"])
def test_a_different_csv_is_rejected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not a throughput table"):
        read_table(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_table(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("step_ms_p50", "nan", "a number"),
        ("wall_s", "inf", "a number"),
        ("compiled", "yes", "True or False"),
        ("model_dtype", "fp8", "bf16 or fp32"),
        ("gpus", "1.5", "a whole number"),
        ("gpus", "", "a whole number"),
    ],
)
def test_a_changed_cell_is_not_cast(
    make_grid: MakeGrid, tmp_path: Path, column: str, value: str, expected: str
) -> None:
    grid = make_grid()
    write_run(grid[0])
    path = tmp_path / "throughput.csv"
    write_table(throughput_rows(grid), path)
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow({**row, column: value})
    told = rf"line 2: not a throughput table: {column}: '{value}'; expected {expected}; delete it"
    with pytest.raises(ConfigError, match=told):
        read_table(path)


def test_a_table_that_is_cut_off_in_a_row_is_rejected(make_grid: MakeGrid, tmp_path: Path) -> None:
    """Its required columns may be complete, but not those by which its runs are known."""
    grid = make_grid()
    write_run(grid[0])
    path = tmp_path / "throughput.csv"
    write_table(throughput_rows(grid), path)
    columns = len(path.read_text().splitlines()[0].split(","))
    path.write_text(path.read_text().rstrip("\n").rpartition(",")[0])
    with pytest.raises(ConfigError, match=f"line 2: not .*: fewer than {columns} cells; delete"):
        read_table(path)


def test_a_table_of_an_earlier_version_has_its_variants_too(make_grid: MakeGrid) -> None:
    block = {"cluster": "here", "model": "tiny", "gpus": 1, "variant": ["base", "hot"]}
    grid = make_grid({"variants": {"hot": {"optim": {"lr": 1e-2}}}, "grid": [block]})
    for cell in grid:
        write_run(cell)
    table = throughput_table(grid)
    assert to_markdown(table.assign(plain_variant=None)) == to_markdown(table)
    assert "| hot " in to_markdown(table)


def test_markdown_is_aligned() -> None:
    text = markdown_table(["Name", "Tokens/s"], [["a", "1,000"], ["bcd", ""]])
    assert text == (
        "| Name   |   Tokens/s |\n"
        "|:-------|-----------:|\n"
        "| a      |      1,000 |\n"
        "| bcd    |            |\n"
    )  # fmt: skip


def test_a_run_in_progress_has_a_row(make_grid: MakeGrid) -> None:
    cell = make_grid()[0]
    write_run(cell, status="running", outcome=None)
    with Path(cell.folder, "metrics.jsonl").open("a") as file:
        file.write('{"global_step": 50, "loss')
    run = read_run(cell.folder)
    assert run is not None
    assert throughput_table(make_grid())["status"].tolist() == ["running"]
