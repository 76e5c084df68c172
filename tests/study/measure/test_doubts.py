"""A busy machine and a wide spread are flagged wherever the measurement is shown."""

import json
from pathlib import Path

import pandas as pd
import pytest

from study.estimate.estimate import estimate_table
from study.estimate.time_table import read_estimates
from study.estimate.time_table import to_markdown as time_markdown
from study.grid import Cell, Grid
from study.measure.doubts import BUSY_SHARE, WIDE_SPREAD, describe_divergence, footnotes
from study.measure.measurement import read_measurements
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import read_table, to_markdown, write_table
from tests.study.conftest import MakeGrid, throughput_table, write_lines, write_run
from tests.study.show.pages import report

ROW = {
    "variant": "base",
    "seed": 42,
    "step_spread": 0.1,
    "machine_load": 0.1,
    "machine_cores": 8,
    "scaling_efficiency": 0.9,
    "efficiency_reference": "gpus-1/base/seed-42",
}


def write_loads(cell: Cell, loads: list[float | None], cores: int | None = 8) -> None:
    """Write these loads into a run's records, starting with the first in steady state."""
    path = Path(cell.folder, "metrics.jsonl")
    first, *records = map(json.loads, path.read_text().splitlines())
    loads = [loads[i % len(loads)] for i in range(len(records))]
    with_loads = [
        record | {"machine/load": load} for record, load in zip(records, loads, strict=True)
    ]
    # What start-up met is no part of a measurement.
    write_lines(path, [first | {"machine/load": 100.0}, *with_loads])
    summary = Path(cell.folder, "run.json")
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"machine_cores": cores}))


def time_table(grid: Grid, folder: Path) -> str:
    write_table(throughput_rows(grid), folder / "throughput.csv")
    return time_markdown(estimate_table(grid, read_measurements(folder / "throughput.csv", grid)))


def test_spread_and_load_match_a_calculation_by_hand(make_grid: MakeGrid, tmp_path: Path) -> None:
    """Intervals of 9, 10, 10 and 10 steps of 0.1, 0.2, 0.1 and 0.2 s; loads of 1, none, 4 and 4.

    19 steps take 0.1 s and 20 take 0.2 s: p10 is 0.1 s, p50 and p90 are 0.2 s. The mean load, by
    time, is (0.9 * 1 + 1 * 4 + 2 * 4) / 3.9.
    """
    cell = make_grid()[0]
    write_run(cell, step_s=[0.1, 0.2])
    write_loads(cell, [1.0, None, 4.0, 4.0])
    row = throughput_table(make_grid()).iloc[0]
    assert row["step_spread"] == pytest.approx(0.5)
    assert row["machine_load"] == pytest.approx(12.9 / 3.9)
    assert row["machine_cores"] == 8
    write_table(throughput_rows(make_grid()), tmp_path / "throughput.csv")
    read = read_table(tmp_path / "throughput.csv").iloc[0]
    assert read["machine_load"] == pytest.approx(12.9 / 3.9)


def test_runs_of_earlier_trainers_have_no_load(make_grid: MakeGrid) -> None:
    grid = make_grid()
    write_run(grid[0])
    row = throughput_table(grid).iloc[0]
    assert row[["machine_load", "machine_cores"]].isna().all()
    assert row["step_spread"] == 0
    assert "¹" not in to_markdown(throughput_table(grid))


def test_a_busy_machine_is_flagged_in_every_table(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell)
        write_loads(cell, [0.05])
    assert "busy" not in to_markdown(throughput_table(grid)) + time_table(grid, tmp_path)
    write_loads(grid[1], [3.14])
    text = to_markdown(throughput_table(grid))
    assert text.count("¹") == 2  # the row, and the note
    assert "note: ¹ busy machine: other processes took more than 10% of its cores.\n" in text
    page = report(grid, tmp_path)
    assert "<p>¹ busy machine: other processes took more than 10% of its cores.</p>" in page
    doubt = "on a busy machine (other processes took 3.1 of its 8 cores)"
    note = f"Verified, {doubt}; speed over 39 steps, length extrapolated"
    assert page.count(note) == time_table(grid, tmp_path).count(note) == 1


def test_a_wide_spread_is_flagged_in_every_table(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    write_run(grid[0], step_s=[0.1, 0.12])
    write_run(grid[1], step_s=[0.1, 0.1, 0.15])
    text = to_markdown(throughput_table(grid))
    assert "note: ¹ wide spread: p90 - p10 of the step time is more than 25% of p50.\n" in text
    assert text.count("¹") == 2
    doubt = "with a wide spread (p90 - p10 of the step time is 50% of p50)"
    note = f"Verified, {doubt}; speed over 39 steps, length extrapolated"
    assert time_table(grid, tmp_path).count(note) == 1


def test_of_several_seeds_the_worst_is_flagged(make_grid: MakeGrid, tmp_path: Path) -> None:
    entry = {"cluster": "here", "model": "tiny", "gpus": 1, "seed": [42, 43, 44]}
    grid = make_grid({"grid": [entry]})
    for cell, load in zip(grid, (0.1, 2.0, 1.0), strict=True):
        write_run(cell)
        write_loads(cell, [load])
    assert "took 2.0 of its 8 cores" in time_table(grid, tmp_path)


@pytest.mark.parametrize(
    ("changes", "marked"),
    [
        ({}, False),
        ({"step_spread": WIDE_SPREAD}, False),
        ({"step_spread": WIDE_SPREAD + 0.01}, True),
        ({"machine_load": 8 * BUSY_SHARE}, False),
        ({"machine_load": 8 * BUSY_SHARE + 0.01}, True),
        ({"step_spread": None, "machine_load": None, "machine_cores": None}, False),
        ({"step_ms_p50": 9.0, "startup_s": None, "wall_s": None}, True),
        ({"step_ms_p50": 9.0, "startup_s": None, "wall_s": 50.0}, False),
        ({"step_ms_p50": None, "startup_s": None, "wall_s": None}, False),
        ({"step_ms_p50": 9.0, "startup_s": 1.0, "steady_intervals": 3}, True),
        ({"step_ms_p50": 9.0, "startup_s": 1.0, "steady_intervals": 4}, False),
        ({"step_ms_p50": None, "startup_s": 1.0, "steady_intervals": 0}, False),
        ({"began_again": True, "trainer": "plain"}, True),
        ({"began_again": False, "trainer": "plain"}, False),
        ({"efficiency_reference": None, "scaling_efficiency": None}, False),
        ({"scaling_efficiency": None}, True),
        ({"efficiency_reference": "gpus-2/base/seed-42"}, False),
        ({"efficiency_reference": "gpus-1/base/seed-43"}, True),
        ({"efficiency_reference": "gpus-1/strong/seed-42"}, True),
    ],
)
def test_what_is_flagged(changes: dict[str, object], marked: bool) -> None:
    marks, notes = footnotes([ROW | changes])
    assert marks == (["¹"] if marked else [""])
    assert len(notes) == marked


@pytest.mark.parametrize(
    ("steps", "runs", "told"),
    [
        ([30], 2, ""),
        ([], 1, ""),
        ([30, 40, 35], 3, "from a run that diverged at step 40"),
        ([None, 1000], 2, "from a run that diverged at step 1,000"),
        ([None], 1, "from a run that diverged"),
    ],
)
def test_a_cell_of_which_every_run_diverged_names_the_last_step(
    steps: list[int | None], runs: int, told: str
) -> None:
    assert describe_divergence(steps, runs) == told


def test_rows_share_footnotes() -> None:
    busy, wide = {"machine_load": 4.0}, {"step_spread": 0.5}
    marks, notes = footnotes([ROW | wide, ROW, ROW | busy | wide, ROW | busy])
    assert marks == ["¹", "", "¹ ²", "²"]
    assert [note.split(":")[0] for note in notes] == ["¹ wide spread", "² busy machine"]
    assert footnotes([ROW | busy, ROW | busy | wide])[0] == ["¹", "¹ ²"]  # ascending


def test_runs_of_other_text_than_the_newest_with_the_same_sources_are_marked(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    """Seeds of a cell, of which the first ran before the text was swapped; also if it is held out.

    Another folder's text is another source's, and an older run does not say what it read.
    """
    entry = {"cluster": "here", "gpus": 1, "seed": [1, 2]}
    variants = {"elsewhere": {"data": {"root_dir": "other"}}}
    blocks = [
        entry | {"model": "tiny", "variant": ["base", "elsewhere"]},
        entry | {"model": "wide"},
    ]
    grid = make_grid({"variants": variants, "grid": blocks})
    keys = ["old", "new", "third", "third", "new", None]
    for day, (cell, key) in enumerate(zip(grid, keys, strict=True), 1):
        write_run(cell, content=key and {"python_stdlib": key})
        file = Path(cell.folder, "run.json")
        summary = json.loads(file.read_text())
        summary["attempts"][0]["start"] = f"2026-01-{day:02}T00:00:00+00:00"
        file.write_text(json.dumps(summary))
    names = [cell.name.removeprefix("here/") for cell in grid]
    assert names[0] == "tiny/gpus-1/base/seed-1" and names[4] == "wide/gpus-1/base/seed-1"
    table = throughput_table(grid)
    newest = f"here/{names[4]}"
    assert table["other_text"].fillna("").tolist() == [newest, "", "", "", "", ""]
    texts = table["text"].fillna("").tolist()
    assert texts[1] == texts[4] != texts[0] and texts[2] == texts[3] and texts[5] == ""
    told = f"its text, to train on or held out, is not that of {newest}: their losses do not"
    text = to_markdown(table)
    assert text.count("¹") == 2 and f"note: ¹ {told} compare.\n" in text
    assert told in report(grid, tmp_path)


def test_an_older_time_table_is_read(tmp_path: Path) -> None:
    """One without the columns that were added since."""
    table = pd.read_csv("results/published/cpu-demo/time_estimates.csv", dtype=str)
    older = tmp_path / "time_estimates.csv"
    table.drop(columns="doubt").to_csv(older, index=False)
    rows = read_estimates(str(older))
    assert len(rows) == len(table)
    assert {row.doubt for row in rows} == {""}
