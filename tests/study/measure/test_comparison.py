"""Throughput tables side by side: ratios by hand, planted differences, and the noise."""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from study.__main__ import main
from study.measure.comparison import Side, compare, read_side, slower_than, split
from study.measure.repeats import BETWEEN_RUNS, loss_spread, speed_spread
from study.measure.throughput_row import ThroughputRow, write_rows
from trainer.problems import ConfigError

ROW = ThroughputRow(
    cluster="here", gpu_name="H200", model="tiny", params=10**6, gpus=1, nodes=1, variant="base",
    seed=1, seq_len=64, batch_size_per_gpu=8, grad_acc_steps=1, tokens_per_step=512, steps=100,
    steady_steps=90, tokens_per_s_per_gpu=1000.0, loss_last=3.0, peak_memory_gib=2.0,
    status="completed", attempts=1, started="2026-01-01T00:00:00+00:00", fingerprint="0" * 16,
)  # fmt: skip


def row(**changes: Any) -> ThroughputRow:
    return replace(ROW, **changes)


def study(
    name: str, factor: float = 1.0, noise: float = 0.0, draw: int = 0, repeats: int = 1
) -> Side:
    """Return twelve cells whose speeds are a factor of the usual ones."""
    numbers = random.Random(f"{name} {draw}")
    rows = [
        row(model=f"m{model}", gpus=gpus, seed=seed, tokens_per_s_per_gpu=factor
            * (1000 + 100 * model) * math.exp(numbers.gauss(0, noise)))
        for model in range(4) for gpus in (1, 2, 4) for seed in range(repeats)
    ]  # fmt: skip
    return Side(name, rows)


def test_by_hand() -> None:
    """One cell, two seeds on each side; geometric means 1000 and 1100, losses 3.0 and 2.9."""
    first = row(tokens_per_s_per_gpu=990.0, loss_last=3.01)
    second = row(seed=2, tokens_per_s_per_gpu=1000**2 / 990, loss_last=2.99)
    faster = row(tokens_per_s_per_gpu=1100.0, loss_last=2.9, peak_memory_gib=3.0)
    base, other = Side("a", [first, second]), Side("b", [faster, replace(faster, seed=2)])
    one, together = compare(base, [other])
    assert one.cell == "here/tiny/gpus-1/base"
    assert one.runs == together.runs == "2, 2"
    assert one.base_speed == pytest.approx(1000)
    assert one.speed_ratio == pytest.approx(1.1)
    assert one.memory_ratio == pytest.approx(1.5)
    assert one.loss_difference == pytest.approx(-0.1)
    # squares: 2 x log(0.99)^2, none, and the pair of 2%; three degrees of freedom
    spread = math.sqrt((2 * math.log(0.99) ** 2 + 0.02**2) / 3)
    assert one.speed_noise == pytest.approx(math.expm1(1.959964 * spread), rel=1e-5)
    # squares of the losses: 2 x 0.01^2; two degrees of freedom, two runs on each side
    assert one.loss_noise == pytest.approx(1.959964 * 0.01, rel=1e-5)
    assert (one.speed, one.loss) == ("faster", "lower")
    assert (together.cell, together.speed_ratio) == ("", pytest.approx(1.1))


@pytest.mark.parametrize("repeats", [1, 3])
def test_two_measurements_of_one_study_show_no_difference(repeats: int) -> None:
    """With a noise of 2%, one comparison in twenty may find a cell."""
    found = 0
    for draw in range(200):
        base, other = (study(name, noise=0.02, draw=draw, repeats=repeats) for name in "ab")
        found += any(item.speed != "same" for item in compare(base, [other])[:-1])
    assert 2 <= found <= 22


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_planted_difference_of_five_percent_is_found(repeats: int) -> None:
    """With a noise of 1%: over all cells always; with repeats, in nearly each cell too."""
    cells = 0
    for draw in range(50):
        base = study("a", noise=0.01, draw=draw, repeats=repeats)
        other = study("b", 0.95, noise=0.01, draw=draw, repeats=repeats)
        *own, together = compare(base, [other])
        assert together.speed == "slower"
        assert together.speed_ratio == pytest.approx(0.95, abs=0.02)
        cells += sum(item.speed == "slower" for item in own)
    assert cells > 0.9 * 50 * 12 if repeats == 3 else cells < 0.3 * 50 * 12


def test_a_busy_machine_widens_the_noise_of_all_cells_together() -> None:
    """No cell was repeated and speeds vary by 15%: the cells' own ratios show it."""
    found = 0
    for draw in range(100):
        base, other = (study(name, noise=0.15, draw=draw) for name in "ab")
        found += compare(base, [other])[-1].speed != "same"
    assert found <= 14


def test_losses_without_repeated_seeds_have_no_noise_unless_they_are_equal() -> None:
    base = Side("a", [row()])
    assert compare(base, [Side("b", [row(loss_last=3.1)])])[0].loss == ""
    assert compare(base, [Side("b", [row()])])[0].loss == "same"


def test_the_held_out_loss_is_compared_if_both_have_it() -> None:
    base = Side("a", [row(val_loss=4.0)])
    assert compare(base, [Side("b", [row(val_loss=4.5)])])[0].loss_difference == 0.5
    assert compare(base, [Side("b", [row(loss_last=3.25)])])[0].loss_difference == 0.25


def test_variants_of_one_study_are_sides() -> None:
    speeds = {"eager": 1000.0, "compile": 1500.0}
    rows = [
        row(variant=name, tokens_per_s_per_gpu=speed, model=model)
        for name, speed in speeds.items()
        for model in ("m1", "m2")
    ]
    base, other = split(Side("study", rows), "variant", None)
    assert (base.name, other.name) == ("eager", "compile")
    found = compare(base, [other], "variant")
    assert [item.cell for item in found] == ["here/m1/gpus-1", "here/m2/gpus-1", ""]
    assert [item.speed_ratio for item in found] == [pytest.approx(1.5)] * 3
    assert split(Side("study", rows), "variant", "compile")[0].name == "compile"


@pytest.mark.parametrize(
    ("rows", "base", "message"),
    [
        ([row()], None, "found 1 variant; expected two or more"),
        ([row(), row(variant="x")], "y", "no variant 'y'; found base, x"),
    ],
)
def test_sides_that_cannot_be_split(
    rows: Sequence[ThroughputRow], base: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        split(Side("study", rows), "variant", base)


def test_studies_without_a_common_cell() -> None:
    with pytest.raises(ConfigError, match="shares no cell with a"):
        compare(Side("a", [row()]), [Side("b", [row(model="other")])])


def test_slower_than_a_threshold_and_than_the_noise() -> None:
    base, slower = study("a", repeats=3), study("b", 0.9, repeats=3)
    found = compare(base, [slower])
    assert len(slower_than(found, 5)) == 13
    assert slower_than(found, 12) == []
    assert slower_than(compare(slower, [base]), 5) == []


def test_several_sides_have_one_base() -> None:
    found = compare(Side("a", [row()]), [Side("b", [row()]), Side("c", [row()])])
    assert [(item.base, item.other) for item in found] == [("a", "b")] * 2 + [("a", "c")] * 2


def test_spreads() -> None:
    assert speed_spread([[100.0], [200.0]]) == BETWEEN_RUNS
    assert loss_spread([[3.0], [2.0]]) is None
    assert loss_spread([[3.0, 3.2], [1.0, 1.2]]) == pytest.approx(0.1 * math.sqrt(2))


def write(folder: Path, side: Side) -> Path:
    write_rows(list(side.rows), folder / "throughput.csv")
    return folder


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", study("a", noise=0.01, repeats=2))
    b = write(tmp_path / "b", study("b", 0.9, noise=0.01, repeats=2))
    output = tmp_path / "out" / "comparison.csv"
    assert main(["compare", str(a), str(b), "--output", str(output)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"\| here/m0/gpus-1/base +\| +2, 2 \| .* \| slower ", text)
    assert re.search(r"\| all cells +\| 24, 24 \| .* \| slower ", text)
    assert output.with_suffix(".md").read_text() == text
    assert output.with_suffix(".svg").read_text().count("<svg") == 1
    assert main(["compare", str(a), str(b), "--threshold", "5"]) == 1
    assert f"slower than {a} by more than 5%: 13 problems" in capsys.readouterr().err
    assert main(["compare", str(b), str(a), "--threshold", "5"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a",), "found one study; expected two or more, or --by"),
        (("a", "a"), "found one study; expected two or more, or --by"),
        (("a", "b", "--by", "variant"), "--by compares the cells of one study; found several"),
        (("a", "missing/throughput.csv"), "does not exist; expected a throughput table"),
    ],
)
def test_wrong_arguments(
    arguments: Sequence[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a", Side("a", [ROW]))
    write(tmp_path / "b", Side("b", [ROW]))
    assert main(["compare", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_rows_without_a_speed_are_no_runs(tmp_path: Path) -> None:
    folder = write(tmp_path, Side("a", [ROW, row(seed=2, tokens_per_s_per_gpu=None)]))
    assert len(read_side(folder).rows) == 1
