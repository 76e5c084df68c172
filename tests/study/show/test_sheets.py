"""Files of a figure, and the ticks of log axes."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from study.show.forms import FORMS
from study.show.sheets import (
    SHEETS,
    Sheet,
    format_scientific,
    format_tick,
    label_log_axis,
    log_ticks,
    write_figure,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1, 1000, [1, 10, 100, 1000]),
        (0.9, 120, [1, 3, 10, 30, 100]),
        (1.5, 60, [2, 5, 10, 20, 50]),
        (5_800, 9_300, [6_000, 7_000, 8_000, 9_000]),  # none of 1, 2 and 5 is in it
        (41_000, 44_500, [41_000, 42_000, 43_000, 44_000]),
        (1e3, 1e12, [1e3, 1e5, 1e7, 1e9, 1e11]),
    ],
)
def test_ticks_of_log_axes(low: float, high: float, expected: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(expected)


@given(st.floats(1e-6, 1e15), st.floats(1.02, 1e9))
def test_every_log_axis_has_two_to_six_ticks_within_it(low: float, ratio: float) -> None:
    high = low * ratio
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert ticks == sorted(set(ticks))
    assert low * (1 - 1e-9) <= ticks[0] and ticks[-1] <= high * (1 + 1e-9)


@given(st.floats(1e-6, 1e15), st.floats(1, 1.05))
def test_ticks_of_a_short_log_axis_read_differently(low: float, ratio: float) -> None:
    ax = Figure().subplots()
    ax.set_yscale("log")
    ax.set_ylim(low, low * ratio * (1 + 1e-12))
    label_log_axis(ax.yaxis)
    ends = ax.get_ylim()
    assert ends[0] <= low and low * ratio <= ends[1]
    texts = [format_tick(tick) for tick in ax.get_yticks()]
    assert len(texts) >= 2 and len(set(texts)) == len(texts)


def test_numbers_on_axes() -> None:
    values = (0.002, 0.15, 7, 131_072, 27_535_872, 1e18)
    assert [format_tick(v) for v in values] == ["0.002", "0.15", "7", "131K", "27.5M", "1e18"]


def test_flops_on_axes() -> None:
    values = (5e8, 1e9, 2.5e12, 3e12, 1.25e21)
    assert [format_scientific(v) for v in values] == ["5e8", "1e9", "2.5e12", "3e12", "1.25e21"]


def test_long_names_keep_both_ends() -> None:
    wide, narrow = SHEETS
    name = "milli, 128 GPUs, decay+lr-0.001, leonardo"
    assert wide.shorten([name]) == [name]
    assert narrow.shorten([name, name]) == 2 * ["milli, 128 G…01, leonardo"]
    assert narrow.shorten([name[:26]]) == [name[:26]]
    assert wide.shorten([name], most=20) == ["milli, 12… leonardo"]


def test_shortened_names_stay_different() -> None:
    """26 letters, or 39: the ends, and what differs between them."""
    narrow = SHEETS[1]
    names = [f"a-model-of-many-words-{middle}, 2 GPUs" for middle in ("norm-00", "rope-01")]
    short = ["a-model-of-m…m-00, 2 GPUs", "a-model-of-m…e-01, 2 GPUs", "tiny"]
    assert narrow.shorten([*names, "tiny"]) == short
    names = [f"a-model-of-many-words-{middle}, 2 GPUs of hers" for middle in ("norm-00", "rope-01")]
    short = ["a-model-o…norm-00… of hers", "a-model-o…rope-01… of hers"]
    assert narrow.shorten(names) == short
    names = [f"a-model-of-many-words-{middle}-and-then-a-long-tail" for middle in ("one", "two")]
    short = ["a-model-of-…one…-long-tail", "a-model-of-…two…-long-tail"]
    assert narrow.shorten(names) == short
    differ = ["1/gpus-8", "1/gpus-64", "2/gpus-8", "2/gpus-64"]
    names = [f"cluster-of-the-university/m{middle}/decay-to-zero" for middle in differ]
    short = [f"cluster-…{middle}…to-zero" for middle in differ]
    assert narrow.shorten(names) == short
    names = [f"{'a' * 30}{x}{'b' * 40}{y}{'c' * 30}" for x in "01" for y in "01"]
    assert narrow.shorten(names) == [f"aaaaaaaaaa…cccccccccc ({n})" for n in (1, 2, 3, 4)]
    # What differs may be longer than a label, and the names of different lengths.
    names = [f"{'a' * 20}{n}{'b' * 40}{n}{'c' * 20}" for n in ("", "x", "y", "zz")]
    assert len({*narrow.shorten(names)}) == 4


@settings(max_examples=300, deadline=None)
@given(st.sets(st.text("ab", min_size=1, max_size=70), min_size=1, max_size=12))
def test_no_two_names_become_the_same(names: set[str]) -> None:
    for sheet in SHEETS:
        short = sheet.shorten(sorted(names))
        assert len({*short}) == len(names)


def test_the_rules_know_the_files_that_are_written(tmp_path: Path) -> None:
    def draw(sheet: Sheet) -> Figure:
        return Figure(figsize=(sheet.width, 1))

    written = write_figure(tmp_path / "name", draw)
    assert [path.name for path in written] == [f"name{form}" for form in FORMS]
    assert {path.name for path in tmp_path.iterdir()} == {f"name{form}" for form in FORMS}
    assert [sheet.width for sheet in SHEETS] == [7.0, 3.4]
    svg = (tmp_path / "name_column.svg").read_text()
    assert 'width="244.8pt"' in svg  # 3.4 in of 72 pt
