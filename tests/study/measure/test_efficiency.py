"""The reference of a scaling efficiency: the table names it, and is empty without one."""

from pathlib import Path

import pandas as pd
import pytest

from study.measure.throughput_table import to_markdown
from study.show.plot_scaling import plot_scaling
from tests.study.conftest import MakeGrid, throughput_table, write_run

BASE = {"cluster": "here", "model": "tiny"}
STUDY = {
    "variants": {"strong": {}, "hot": {"optim": {"lr": 1e-2}}},
    "grid": [
        BASE | {"gpus": [1, 2, 4], "seed": [42, 43, 44]},
        BASE | {"gpus": [2, 4], "variant": "strong", "global_batch_size": 8},
        BASE | {"gpus": [1, 2, 4], "variant": "hot", "seed": [42, 43]},
    ],
}

Rows = dict[str, tuple[float | None, str | None]]


def table_of(make_grid: MakeGrid, speeds: dict[str, float]) -> pd.DataFrame:
    """Run the named cells, such as `gpus-1/base/seed-42`, at these tokens/s/GPU."""
    grid = make_grid(STUDY)
    for cell in grid:
        speed = speeds.get(cell.name.partition("tiny/")[2])
        if speed is not None:
            write_run(cell, step_s=cell.tokens_per_step / cell.gpus / speed)
    return throughput_table(grid)


def efficiencies(table: pd.DataFrame) -> Rows:
    rows = {}
    for row in table.to_dict("records"):
        name = f"gpus-{row['gpus']}/{row['variant']}/seed-{row['seed']}"
        value, reference = row["scaling_efficiency"], row["efficiency_reference"]
        assert pd.isna(value) == pd.isna(reference)
        rows[name] = (None, None) if pd.isna(value) else (round(value, 6), reference)
    return rows


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        pytest.param(
            {"gpus-1/base/seed-42": 1000, "gpus-4/base/seed-42": 800, "gpus-4/base/seed-43": 700},
            {
                "gpus-1/base/seed-42": (1.0, "gpus-1/base/seed-42"),
                "gpus-4/base/seed-42": (0.8, "gpus-1/base/seed-42"),
                "gpus-4/base/seed-43": (0.7, "gpus-1/base/seed-42"),
            },
            id="a second seed on many GPUs alone: the base seed",
        ),
        pytest.param(
            {
                "gpus-1/base/seed-42": 1000,
                "gpus-2/base/seed-43": 900,
                "gpus-4/base/seed-43": 600,
            },
            {
                "gpus-1/base/seed-42": (1.0, "gpus-1/base/seed-42"),
                "gpus-2/base/seed-43": (0.9, "gpus-1/base/seed-42"),
                "gpus-4/base/seed-43": (0.6, "gpus-1/base/seed-42"),
            },
            id="all rows of a second seed have one reference",
        ),
        pytest.param(
            {
                "gpus-1/base/seed-42": 1000,
                "gpus-1/base/seed-43": 800,
                "gpus-2/base/seed-43": 400,
            },
            {
                "gpus-1/base/seed-42": (1.0, "gpus-1/base/seed-42"),
                "gpus-1/base/seed-43": (1.0, "gpus-1/base/seed-43"),
                "gpus-2/base/seed-43": (0.5, "gpus-1/base/seed-43"),
            },
            id="its own seed before the base seed",
        ),
        pytest.param(
            {"gpus-1/base/seed-43": 1000, "gpus-1/base/seed-44": 500, "gpus-2/base/seed-42": 400},
            {
                "gpus-1/base/seed-43": (1.0, "gpus-1/base/seed-43"),
                "gpus-1/base/seed-44": (1.0, "gpus-1/base/seed-44"),
                "gpus-2/base/seed-42": (0.4, "gpus-1/base/seed-43"),
            },
            id="the base seed was not measured there: the next in the grid",
        ),
        pytest.param(
            {"gpus-1/base/seed-42": 1000, "gpus-4/hot/seed-42": 800, "gpus-4/hot/seed-43": 700},
            {
                "gpus-1/base/seed-42": (1.0, "gpus-1/base/seed-42"),
                "gpus-4/hot/seed-42": (None, None),
                "gpus-4/hot/seed-43": (None, None),
            },
            id="other settings on many GPUs alone: no reference",
        ),
        pytest.param(
            {"gpus-1/base/seed-42": 1000, "gpus-2/hot/seed-42": 800, "gpus-4/hot/seed-42": 400},
            {
                "gpus-1/base/seed-42": (1.0, "gpus-1/base/seed-42"),
                "gpus-2/hot/seed-42": (1.0, "gpus-2/hot/seed-42"),
                "gpus-4/hot/seed-42": (0.5, "gpus-2/hot/seed-42"),
            },
            id="several counts, the smallest above one",
        ),
        pytest.param(
            {"gpus-1/base/seed-42": 1000, "gpus-1/hot/seed-42": 800},
            {
                "gpus-1/base/seed-42": (1.0, "gpus-1/base/seed-42"),
                "gpus-1/hot/seed-42": (1.0, "gpus-1/hot/seed-42"),
            },
            id="one GPU is a reference by itself",
        ),
        pytest.param(
            {"gpus-4/base/seed-42": 1000, "gpus-4/base/seed-43": 900},
            {"gpus-4/base/seed-42": (None, None), "gpus-4/base/seed-43": (None, None)},
            id="nothing was measured on fewer",
        ),
        pytest.param(
            {"gpus-1/base/seed-42": 1000, "gpus-2/strong/seed-42": 900},
            {
                "gpus-1/base/seed-42": (1.0, "gpus-1/base/seed-42"),
                "gpus-2/strong/seed-42": (0.9, "gpus-1/base/seed-42"),
            },
            id="strong scaling overrides nothing",
        ),
        pytest.param(
            {
                "gpus-2/base/seed-42": 1000,
                "gpus-2/strong/seed-42": 800,
                "gpus-4/base/seed-42": 500,
                "gpus-4/strong/seed-42": 480,
            },
            {
                "gpus-2/base/seed-42": (1.0, "gpus-2/base/seed-42"),
                "gpus-2/strong/seed-42": (1.0, "gpus-2/strong/seed-42"),
                "gpus-4/base/seed-42": (0.5, "gpus-2/base/seed-42"),
                "gpus-4/strong/seed-42": (0.6, "gpus-2/strong/seed-42"),
            },
            id="its own variant before another of equal settings",
        ),
    ],
)
def test_the_reference_is_named(
    make_grid: MakeGrid, speeds: dict[str, float], expected: Rows
) -> None:
    assert efficiencies(table_of(make_grid, speeds)) == expected


@pytest.mark.parametrize(("clip", "alike"), [(2.0, True), (2.5, False)])
def test_settings_of_equal_numbers_are_comparable(
    make_grid: MakeGrid, clip: float, alike: bool
) -> None:
    variants = {"a": {"optim": {"clip": clip}}, "b": {"optim": {"clip": 2}}}
    blocks = [BASE | {"gpus": 1, "variant": "a"}, BASE | {"gpus": 2, "variant": "b"}]
    grid = make_grid({"variants": variants, "grid": blocks})
    for cell in grid:
        write_run(cell, step_s=1.0)
    reference = (1.0, "gpus-1/a/seed-42")
    expected = {"gpus-1/a/seed-42": reference,
                "gpus-2/b/seed-42": reference if alike else (None, None)}  # fmt: skip
    assert efficiencies(throughput_table(grid)) == expected


def test_the_markdown_names_a_reference_of_another_seed_or_variant(make_grid: MakeGrid) -> None:
    speeds = {"gpus-1/base/seed-42": 1000.0, "gpus-2/base/seed-42": 900.0}
    assert "note" not in to_markdown(table_of(make_grid, speeds)).replace("note: no MFU", "")
    others = {"gpus-2/base/seed-43": 800.0, "gpus-2/strong/seed-42": 700.0}
    text = to_markdown(table_of(make_grid, speeds | others))
    assert text.count("tiny¹ ") == 2
    assert "note: ¹ scaling efficiency against gpus-1/base/seed-42.\n" in text


def test_speeds_of_two_gpu_models_have_no_ratio(make_grid: MakeGrid) -> None:
    """Three seeds on two kinds of node: each is compared with its own kind, if there is one."""
    grid = make_grid(STUDY)
    nodes = {
        "gpus-1/base/seed-42": (1000, "A100-40"),
        "gpus-1/base/seed-43": (1100, "A100-80"),
        "gpus-2/base/seed-42": (990, "A100-80"),
        "gpus-2/base/seed-43": (990, None),
        "gpus-4/base/seed-42": (900, "H100"),
    }
    for cell in grid:
        if found := nodes.get(cell.name.partition("tiny/")[2]):
            step_s = cell.tokens_per_step / cell.gpus / found[0]
            write_run(cell, step_s=step_s, gpu_name=found[1])
    table = throughput_table(grid)
    columns = table["scaling_efficiency"].round(6), table["efficiency_reference"]
    assert [(None if pd.isna(v) else v, name) for v, name in zip(*columns, strict=True)] == [
        (1.0, "gpus-1/base/seed-42"),
        (1.0, "gpus-1/base/seed-43"),
        (0.9, "gpus-1/base/seed-43"),  # 990 of 1100, though seed 42 ran on the other kind
        (0.9, "gpus-1/base/seed-43"),
        (None, "gpus-1/base/seed-42"),
    ]
    text = to_markdown(table)
    assert "no scaling efficiency: gpus-1/base/seed-42 ran on another GPU or CPU.\n" in text


@pytest.mark.parametrize("unknown", [1, 2])
def test_a_gpu_whose_model_is_not_known_counts_as_the_same(
    make_grid: MakeGrid, unknown: int
) -> None:
    for cell in make_grid(STUDY):
        if cell.gpus <= 2 and cell.named_variant == "base" and cell.seed == 42:
            write_run(cell, step_s=1.0, gpu_name=None if cell.gpus == unknown else "H100")
    reference = (1.0, "gpus-1/base/seed-42")
    rows = efficiencies(throughput_table(make_grid(STUDY)))
    assert rows == {"gpus-1/base/seed-42": reference, "gpus-2/base/seed-42": reference}


def test_a_run_that_was_killed_before_its_steady_state_has_none(make_grid: MakeGrid) -> None:
    speeds = {f"gpus-{gpus}/base/seed-42": 1000.0 for gpus in (1, 2, 4)}
    table_of(make_grid, speeds)
    (killed,) = (cell for cell in make_grid(STUDY) if cell.name.endswith("2/base/seed-42"))
    write_run(killed, status="failed", steps_done=1)
    metrics = Path(killed.folder, "metrics.jsonl")
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    rows = efficiencies(throughput_table(make_grid(STUDY)))
    assert rows == {
        "gpus-1/base/seed-42": (1.0, "gpus-1/base/seed-42"),
        "gpus-2/base/seed-42": (None, None),
        "gpus-4/base/seed-42": (1.0, "gpus-1/base/seed-42"),
    }


@pytest.mark.parametrize(
    "speeds",
    [
        {"gpus-4/base/seed-42": 1000.0},
        {"gpus-1/base/seed-42": 1000.0, "gpus-4/hot/seed-42": 800.0},
    ],
    ids=["none", "some"],
)
def test_figures_leave_out_what_has_no_reference(
    make_grid: MakeGrid, tmp_path: Path, speeds: dict[str, float]
) -> None:
    table = table_of(make_grid, speeds)
    assert table["scaling_efficiency"].isna().any()
    plot_scaling(make_grid(STUDY), table, tmp_path)
    assert (tmp_path / "scaling_efficiency.svg").exists()
