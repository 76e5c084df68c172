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
from study.files import write_csv
from study.measure.comparison import (
    Difference,
    Side,
    compare,
    read_side,
    slower_than,
    split,
    unshared,
)
from study.measure.noise import noise_within
from study.measure.repeats import BETWEEN_RUNS, relative_spread
from study.measure.throughput_row import ThroughputRow
from study.show.compare import to_markdown
from tests.study.conftest import STUDY
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
    # squares: 2 x log(0.99)^2 and none; two degrees of freedom, where Student's t is 4.302653
    spread = -math.log(0.99)
    assert one.speed_noise == pytest.approx(math.expm1(4.302653 * spread), rel=1e-5)
    # squares of the losses: 2 x 0.01^2; two degrees of freedom, two runs on each side
    assert one.loss_noise == pytest.approx(4.302653 * 0.01, rel=1e-5)
    assert (one.speed_degrees, one.loss_degrees) == (2, 2)
    assert (one.speed, one.loss) == ("faster", "lower")
    assert (together.cell, together.speed_ratio) == ("", pytest.approx(1.1))


def test_all_cells_together_by_hand() -> None:
    """Two cells of two seeds, one of which scatters, and both 10% faster on the other side."""
    slow, fast = (
        {"tokens_per_s_per_gpu": 1000.0, "peak_memory_gib": 2.0, "loss_last": 3.0},
        {"tokens_per_s_per_gpu": 1100.0, "peak_memory_gib": 4.0, "loss_last": 2.8},
    )
    base = [
        row(**slow | {"tokens_per_s_per_gpu": 990.0}),
        row(seed=2, **slow | {"tokens_per_s_per_gpu": 1000**2 / 990}),
        *[row(model="wide", seed=seed, **slow | {"peak_memory_gib": 1.0}) for seed in (1, 2)],
    ]
    other = [row(seed=seed, **fast) for seed in (1, 2)]
    other += [row(model="wide", seed=s, **fast | {"loss_last": 2.9}) for s in (1, 2)]
    together = compare(Side("a", base), [Side("b", other)])[-1]
    assert (together.cell, together.runs) == ("", "4, 4")
    assert together.speed_ratio == pytest.approx(1.1)
    assert together.memory_ratio == pytest.approx(math.sqrt(2 * 4))
    assert together.loss_difference == pytest.approx(-0.15)
    # Squares: 2 x log(0.99)^2; four degrees of freedom, where Student's t is 2.776445. The standard
    # error of the mean of two differences of two runs each is a run's deviation over the root of 2.
    assert together.speed_degrees == 4
    assert together.speed_noise == pytest.approx(math.expm1(2.776445 * -math.log(0.99) / 2), 1e-5)
    assert together.speed == "faster"


def test_of_single_runs_the_mean_over_cells_has_an_assumed_noise_too() -> None:
    """Two cells, whose ratios alone tell too little: four runs of 2% each, over two cells."""
    base = Side("a", [row(), row(model="wide")])
    other = Side("b", [row(tokens_per_s_per_gpu=900.0), row(model="wide")])
    *_, together = compare(base, [other])
    assert (together.speed, together.speed_degrees) == ("", 0)
    width = 1.959964 * 0.02 * math.sqrt(4) / 2
    assert together.speed_noise == pytest.approx(math.expm1(width), rel=1e-5)


def test_what_one_side_has_not_recorded_is_not_compared() -> None:
    """Memory of one of two cells, on one side; and no loss at all, which needs no note."""
    base = Side("a", [row(loss_last=None), row(loss_last=None, model="wide")])
    other = Side("b", [base.rows[0], replace(base.rows[1], peak_memory_gib=None)])
    for sides in ((base, other), (other, base)):
        one, wide, together = compare(sides[0], sides[1:])
        assert (one.memory_ratio, wide.memory_ratio, together.memory_ratio) == (1.0, None, None)
        assert {item.loss_difference for item in (one, wide, together)} == {None}
        assert (one.note, wide.note) == ("", "")


def test_losses_of_all_cells_have_a_verdict_if_each_of_them_compares() -> None:
    """A wide variant of two models; of the second, it was trained twice as long."""

    def runs(variant: str, loss: float, **changes: Any) -> list[ThroughputRow]:
        return [row(variant=variant, seed=n, loss_last=loss + n / 1e3, **changes) for n in (1, 2)]

    base = [*runs("base", 3.0), *runs("base", 3.0, model="wide")]
    for steps, verdict in ((100, "lower"), (200, "")):
        other = [*runs("long", 2.0), *runs("long", 2.0, model="wide", steps=steps)]
        sides = split(Side("one", [*base, *other]), "variant", "base")
        one, _, together = compare(sides[0], sides[1:], "variant")
        assert (one.loss, together.loss) == ("lower", verdict)


def test_a_side_says_how_many_runs_of_which_versions_it_has() -> None:
    rows = [row(commit="0123456789abcdef", torch_version="2.9.0"), row(torch_version="2.10.0")]
    assert Side("a", rows).ran == "2 runs; commit 012345678; torch 2.9.0, 2.10.0"
    assert Side("a", [row()]).ran == "1 run"


def drawn(name: str, cells: int, repeats: int, numbers: random.Random) -> Side:
    """Return cells that differ in nothing but noise: 5% of the speed, 0.002 nats of the loss."""
    rows = [
        row(model=f"m{cell}", seed=seed, loss_last=3 + numbers.gauss(0, 0.002),
            tokens_per_s_per_gpu=1000 * math.exp(numbers.gauss(0, 0.05)))
        for cell in range(cells) for seed in range(repeats)
    ]  # fmt: skip
    return Side(name, rows)


@pytest.mark.parametrize(("cells", "repeats"), [(1, 2), (2, 2), (1, 3), (6, 2), (6, 3)])
def test_one_comparison_in_twenty_finds_what_is_not_there(cells: int, repeats: int) -> None:
    """From as few as two seeds on each side; 400 comparisons, so within 2 to 8%."""
    numbers = random.Random(1)
    found = {"speed": 0, "loss": 0, "all": 0}
    for _ in range(400):
        base, other = (drawn(name, cells, repeats, numbers) for name in "ab")
        *own, together = compare(base, [other])
        found["speed"] += any(item.speed != "same" for item in own)
        found["loss"] += any(item.loss != "same" for item in own)
        found["all"] += together.speed != "same"
    assert max(found.values()) <= 32
    assert min(found["speed"], found["loss"]) >= 4


@pytest.mark.parametrize("cells", [1, 6])
def test_runs_without_a_repetition_have_no_verdict(cells: int) -> None:
    """All cells together have one from three on: from how far their ratios are apart."""
    numbers = random.Random(1)
    together = 0
    for _ in range(400):
        base, other = (drawn(name, cells, 1, numbers) for name in "ab")
        *own, mean = compare(base, [other])
        assert {item.speed for item in own} == {item.loss for item in own} == {""}
        together += mean.speed not in ("", "same")
    assert together == 0 if cells == 1 else 8 <= together <= 32


def test_one_repetition_does_not_tell_the_noise() -> None:
    """Student's t with one degree of freedom is 12.7; of two cells' loss it is even 25.5."""
    base = Side("a", [row(), row(seed=2, tokens_per_s_per_gpu=1010.0, loss_last=3.01)])
    one = compare(base, [Side("b", [row(tokens_per_s_per_gpu=600.0, loss_last=2.0)])])[0]
    assert (one.speed, one.loss, one.speed_degrees, one.loss_noise) == ("", "", 0, None)
    # the pair's squares, 2 x (log(1.01) / 2)^2, and the pair of 2%
    spread = math.sqrt((math.log(1.01) ** 2 / 2 + 0.02**2) / 2)
    width = 1.959964 * spread * math.sqrt(1 / 2 + 1)
    assert one.speed_noise == pytest.approx(math.expm1(width), rel=1e-5)


def test_the_noise_is_that_of_the_loss_that_is_compared() -> None:
    """The base's held-out loss varies little; the training loss of both sides varies much."""
    numbers = random.Random(1)
    found = 0
    for _ in range(400):
        rows = [row(seed=seed, val_loss=3 + numbers.gauss(0, 0.002),
                    loss_last=3 + numbers.gauss(0, 0.03)) for seed in range(6)]  # fmt: skip
        other = row(loss_last=3 + numbers.gauss(0, 0.03))
        one = compare(Side("a", rows), [Side("b", [other])])[0]
        assert one.loss_kind == "training loss at the end"
        found += one.loss != "same"
    assert 4 <= found <= 32


def test_seeds_on_different_text_are_no_noise() -> None:
    """Losses of 3.0 and 3.2, on a text each, and of 3.0 and 3.01 on one."""
    pair = [row(loss_last=3.0, text="a"), row(seed=2, loss_last=3.2, text="b", other_text="x")]
    base, other = Side("base", pair), Side("other", [row(loss_last=2.9, text="a")])
    one = compare(base, [other])[0]
    assert (one.loss_noise, one.loss) == (None, "")
    assert one.note.split("; ") == [
        "text a/b and a",
        "losses of unlike runs have no verdict",
        "runs of base read different text",
    ]
    again = row(model="wide", loss_last=3.0, text="b")
    pairs = [again, replace(again, seed=2, loss_last=3.01)]
    found = compare(Side("base", [*pair, *pairs]), [Side("other", [*other.rows, *pairs])])
    # squares: 4 x 0.005^2; two degrees of freedom, for two cells t is 6.205347; 2 and 2 runs
    assert found[1].loss_noise == pytest.approx(6.205347 * math.sqrt(1e-4 / 2), rel=1e-5)
    assert (found[1].loss_degrees, found[1].loss, found[1].note) == (2, "same", "")


def test_losses_have_no_verdict_if_the_text_of_one_side_is_not_known() -> None:
    """Tables from before the column `text`: other text gave another loss."""

    def compared(base: str | None, other: str | None) -> Difference:
        pairs = [
            [row(seed=seed, loss_last=loss + 0.001 * seed, text=text) for seed in range(3)]
            for loss, text in ((3, base), (2, other))
        ]
        return compare(Side("base", pairs[0]), [Side("other", pairs[1])])[0]

    assert (compared(None, None).loss, compared("a", "a").loss) == ("lower", "lower")
    for one in (compared("a", None), compared(None, "a")):
        assert one.loss == ""
        told = ["text known on one side only", "losses of unlike runs have no verdict"]
        assert one.note.split("; ") == told


def test_variants_have_no_verdict_if_their_text_changed_between_the_runs() -> None:
    """A mixture of sources is another text on purpose."""

    def verdict(**changes: Any) -> str:
        rows = [row(seed=seed, loss_last=3 + 0.001 * seed, text="a") for seed in range(3)]
        changed = [row(seed=seed, variant="v", loss_last=2 + 0.001 * seed, **changes)
                   for seed in range(3)]  # fmt: skip
        base, other = split(Side("study", [*rows, *changed]), "variant", None)
        return compare(base, [other], "variant")[0].loss

    assert verdict(text="b") == "lower"
    assert verdict(text="b", other_text="here/tiny/gpus-1/base/seed-1") == ""
    assert verdict(text="a", other_text="here/tiny/gpus-1/base/seed-1") == "lower"


def test_only_runs_that_were_trained_to_their_end_have_a_loss() -> None:
    rows = [row(), row(seed=2, loss_last=9.0, outcome="diverged"),
            row(seed=3, loss_last=5.0, status="preempted")]  # fmt: skip
    one = compare(Side("a", rows), [Side("b", [row()])])[0]
    assert (one.base_loss, one.loss_difference, one.runs) == (3.0, 0.0, "3, 1")
    assert one.note == "1 of 3 runs of a have a loss"
    one = compare(Side("a", rows[1:]), [Side("b", [row()])])[0]
    assert (one.base_loss, one.loss) == (None, "")
    assert one.note == "0 of 2 runs of a have a loss"


OTHER = {"text": "b", "params": 2 * 10**6, "seq_len": 128, "tokens_per_step": 1024, "steps": 200}


@pytest.mark.parametrize("column", [*OTHER, "gpu_name", "torch_version", "model_dtype"])
def test_what_differs_beside_the_name_is_named(column: str) -> None:
    """A loss is not compared with that of another model, or of other tokens."""
    values = OTHER | {"gpu_name": "A100", "torch_version": "2.13.0", "model_dtype": "bf16"}
    here = {"torch_version": "2.5.0", "model_dtype": "fp32", "text": "a"}
    base = Side("a", [row(seed=seed, loss_last=3 + 0.001 * seed, **here) for seed in range(3)])
    changed = here | {column: values[column]}
    other = Side("b", [row(seed=seed, loss_last=2 + 0.001 * seed, **changed) for seed in range(3)])
    one, together = compare(base, [other])
    before = getattr(base.rows[0], column)
    texts = [f"{v:,}" if isinstance(v, int) else v for v in (before, values[column])]
    assert one.note.startswith(f"{column} {texts[0]} and {texts[1]}")
    assert (one.loss, together.loss) == (("", "") if column in OTHER else ("lower", "lower"))
    assert ("losses of unlike runs have no verdict" in one.note) == (column in OTHER)
    assert compare(base, [Side("c", base.rows)])[0].note == ""
    unknown = Side("d", [replace(item, torch_version=None, model_dtype=None) for item in base.rows])
    for sides in ((base, unknown), (unknown, base)):
        assert compare(sides[0], sides[1:])[0].note == ""


def test_settings_that_no_column_shows_are_told_by_the_fingerprint() -> None:
    base = Side("a", [row(), row(seed=2, fingerprint="1" * 16)])
    assert compare(base, [Side("b", [row(seed=2, fingerprint="1" * 16)])])[0].note == ""
    other = compare(base, [Side("b", [row(fingerprint="2" * 16)])])[0]
    assert other.note == "settings that are no column of the table"
    # Variants have settings of their own, which is what they are compared for.
    sides = split(Side("one", [row(), row(variant="hot", fingerprint="2" * 16)]), "variant", None)
    assert compare(sides[0], sides[1:], "variant")[0].note == ""
    # What the columns show, they tell.
    other = compare(base, [Side("b", [row(steps=200, fingerprint="2" * 16)])])[0]
    assert other.note == "steps 100 and 200; losses of unlike runs have no verdict"


def test_variants_compare_in_their_loss_if_they_have_as_many_tokens() -> None:
    """An ablation changes the model on purpose, and a batch twice as large takes half the steps."""

    def verdict(**changes: Any) -> str:
        rows = [row(seed=seed, loss_last=3 + 0.001 * seed) for seed in range(3)]
        changed = [replace(item, variant="v", loss_last=item.loss_last and item.loss_last - 1,
                           **changes) for item in rows]  # fmt: skip
        base, other = split(Side("study", [*rows, *changed]), "variant", None)
        return compare(base, [other], "variant")[0].loss

    assert verdict(params=2 * 10**6) == "lower"
    assert verdict(tokens_per_step=1024, steps=50) == "lower"
    assert verdict(steps=50) == ""


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
    assert cells > 0.9 * 50 * 12 if repeats == 3 else cells == 0


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
    some = Side("b", [row(val_loss=4.5, loss_last=3.5), row(seed=2, loss_last=3.5)])
    assert compare(base, [some])[0].loss_difference == 0.5


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


def test_cells_that_one_side_lacks_are_listed() -> None:
    a, b = Side("a", [row(), row(gpus=2)]), Side("b", [row(gpus=4), row(), row(seed=2)])
    assert unshared(a, b) == {"a": ["here/tiny/gpus-2/base"], "b": ["here/tiny/gpus-4/base"]}


def test_trainers_are_cells_of_their_own_unless_they_are_what_is_compared() -> None:
    """Ours and litgpt's, each with and without a variant, whose plain names are the same."""
    names = {"base": ("ours", "base"), "hot": ("ours", "hot"),
             "litgpt": ("litgpt", "base"), "litgpt+hot": ("litgpt", "hot")}  # fmt: skip
    rows = [row(variant=name, trainer=trainer, plain_variant=plain)
            for name, (trainer, plain) in names.items()]  # fmt: skip
    found = compare(Side("a", rows), [Side("b", rows)])
    assert [item.cell for item in found] == [*(f"here/tiny/gpus-1/{name}" for name in names), ""]
    first, second = split(Side("study", rows), "trainer", None)
    found = compare(first, [second], "trainer")
    assert (first.name, second.name) == ("ours", "litgpt")
    assert [item.cell for item in found] == ["here/tiny/gpus-1/base", "here/tiny/gpus-1/hot", ""]
    assert [item.runs for item in found] == ["1, 1", "1, 1", "2, 2"]


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
    others = [Side("b", [row(model="other")]), Side("c", [row(gpus=2)])]
    with pytest.raises(ConfigError) as told:
        compare(Side("a", [row()]), others)
    assert str(told.value).startswith("a: 1 problem")
    assert "shares no cell with b, c; nothing to compare" in str(told.value)


@pytest.mark.parametrize(
    ("by", "base", "compared", "skipped"),
    [
        ("variant", None, ["lr-2"], ["base", "muon"]),
        ("variant", "base", ["muon"], ["lr-1", "lr-2"]),
        ("model", None, ["pico"], ["nano"]),
    ],
)
def test_sides_without_a_common_cell_are_named_and_the_others_compared(
    by: str, base: str | None, compared: list[str], skipped: list[str]
) -> None:
    """Learning rates of two models, and another optimizer of a third one."""
    kinds = {"femto": ("lr-1", "lr-2"), "pico": ("lr-1", "lr-2"), "nano": ("base", "muon")}
    rows = [row(model=model, variant=name) for model, names in kinds.items() for name in names]
    first, *others = split(Side("study", rows), by, base)
    found = compare(first, others, by)
    assert list(dict.fromkeys(item.other for item in found)) == compared
    text = to_markdown(first, others, found, by)
    for name in skipped:
        runs = f"{sum(getattr(item, by) == name for item in rows)} run"
        assert re.search(rf"\nnote: {name} \({runs}s?\) shares no cell with {first.name}\n", text)


@pytest.mark.parametrize("given", ["other.yaml", "results/other", "results/other/throughput.csv"])
def test_the_command_that_writes_a_table_is_that_of_its_study(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results/other").mkdir(parents=True)
    for file in (Path("other.yaml"), Path("results/other/study.yaml")):
        file.write_text(STUDY.replace("study: test", "study: other"))
    file = given if given.endswith("yaml") else "results/other/study.yaml"
    with pytest.raises(ConfigError) as told:
        read_side(Path(given))
    assert f"`snakemake --cores 1 --configfile {file}` writes" in str(told.value)


def test_the_default_study_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/config.yaml").write_text(STUDY)
    with pytest.raises(ConfigError, match="which `snakemake --cores 1` writes"):
        read_side(Path("config/config.yaml"))


def test_slower_than_a_threshold_and_than_the_noise() -> None:
    base, slower = (study(n, f, 0.002, repeats=3) for n, f in (("a", 1.0), ("b", 0.9)))
    found = compare(base, [slower])
    assert len(slower_than(found, 5)) == 13
    assert slower_than(found, 12) == []
    assert slower_than(compare(slower, [base]), 5) == []


@pytest.mark.parametrize(("factor", "fails"), [(0.91, False), (0.9, False), (0.89, True)])
def test_of_single_runs_the_threshold_allows_for_an_assumed_noise(
    factor: float, fails: bool
) -> None:
    """1.959964 x 2% x sqrt(2) is a factor of 1.0570, which with 5% leaves 0.95 / 1.057 = 0.8988."""
    found = compare(Side("a", [row()]), [Side("b", [row(tokens_per_s_per_gpu=1000 * factor)])])
    text = ["b, here/tiny/gpus-1/base: 11.0%, with an assumed noise of 5.7%"]
    assert slower_than(found, 5)[:1] == (text if fails else [])


def test_several_sides_have_one_base() -> None:
    found = compare(Side("a", [row()]), [Side("b", [row()]), Side("c", [row()])])
    assert [(item.base, item.other) for item in found] == [("a", "b")] * 2 + [("a", "c")] * 2


def test_spreads() -> None:
    assert relative_spread([[100.0], [200.0]]) == BETWEEN_RUNS
    assert noise_within([[3.0], [2.0]]) is None
    noise = noise_within([[3.0, 3.2], [1.0, 1.2]])
    assert noise is not None and noise.degrees == 2
    assert noise.deviation == pytest.approx(0.1 * math.sqrt(2))


def test_equal_repetitions_tell_nothing_of_the_noise() -> None:
    """Rounded losses, or copies of one run: not a noise of 0, which every difference exceeds."""
    assert noise_within([[3.1, 3.1, 3.1], [2.7, 2.7]]) is None


def test_the_text_says_what_the_noise_is_based_on_and_what_differs() -> None:
    one = Side("a", [row(), row(model="other")])
    changed = row(params=2, tokens_per_s_per_gpu=900.0), row(model="other", gpu_name="A100")
    text = to_markdown(one, [Side("b", changed)], compare(one, [Side("b", changed)]), None)
    assert "\nnote: params 1,000,000 and 2; losses of unlike runs have no verdict (" in text
    assert "\nnote: gpu_name H200 and A100 (here/other/gpus-1/base)\n" in text
    assert "| 6.5% assumed |" in text
    assert "its noise is assumed, from them and from 2% between runs, and gives no verdict" in text
    base, other = study("a", noise=0.01, repeats=2), study("b", noise=0.01, repeats=2)
    text = to_markdown(base, [other], compare(base, [other]), None)
    assert "assumed" not in text and "For the speed they leave 24 degrees of freedom." in text
    # A cell without a loss leaves those of the others: two seeds each of two cells and of one.
    runs = [
        row(seed=seed, model=model, loss_last=3 + 0.1 * seed) for seed in (1, 2) for model in "mn"
    ]
    ended = [replace(run, outcome="diverged") if run.model == "n" else run for run in runs]
    base, other = Side("a", runs), Side("b", ended)
    assert "For the loss they leave 3." in to_markdown(base, [other], compare(base, [other]), None)


def write(folder: Path, side: Side) -> Path:
    write_csv(folder / "throughput.csv", side.rows, ThroughputRow)
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
        (("a", ""), "throughput.csv: 1 problem\n  does not exist; expected a throughput table"),
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
