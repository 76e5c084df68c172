"""Variants and trainers compared in the report, in Chromium."""

from pathlib import Path

from tests.study.show.browsed import (
    IN_CHROMIUM,
    LOSSES,
    ONE_COUNT,
    RATES,
    TRAINERS,
    Open,
    column,
    looks,
    write_report,
)

pytestmark = IN_CHROMIUM


def test_a_study_of_one_gpu_count_compares_its_variants(open_page: Open, tmp_path: Path) -> None:
    page = open_page(write_report(ONE_COUNT, tmp_path, estimated=False))
    figures = page.locator("figure:visible")
    assert figures.first.get_attribute("data-bars") == "variants"
    assert not page.locator("[data-chart=speed]").is_visible()
    speeds = dict(zip(column(page, "Variant"), column(page, "Tokens/s/GPU"), strict=True))
    speed = {name: float(text.replace(",", "")) for name, text in speeds.items()}
    told = page.locator("[data-bars=variants] .bar").all_text_contents()
    ratios = {name: speed[name] / speed["switch5"] for name in speed}
    page.locator("[data-bars=variants]").get_by_label("Base").select_option("switch5")
    told = page.locator("[data-bars=variants] .bar").all_text_contents()
    for text, (name, ratio) in zip(told, ratios.items(), strict=True):
        assert text.startswith(name)
        assert text.endswith(f" · {ratio:.2f}×")


def test_trainers_are_an_axis_of_their_own(open_page: Open, tmp_path: Path) -> None:
    page = open_page(write_report(TRAINERS, tmp_path, estimated=False))
    names = ["zsh", "zsh, strong", "ours", "ours, strong", "fish", "fish, strong"]
    counts = ["1 GPU", "2 GPUs"]
    wanted = [
        f"{model}, {count}, {name}" for model in ("m1", "m2") for count in counts for name in names
    ]
    assert looks(page, LOSSES) == wanted
    assert looks(page, 'scalingSeries("tokens_per_s")') == [
        f"{model}, {name}" for model in ("m1", "m2") for name in names
    ]
    assert page.evaluate("dashOf(KINDS.indexOf('here\\nours'))") == []  # not the first of the grid
    # The trainers beside ours, whatever the order of the study.
    bars = page.locator("[data-bars=variants]")
    assert str(bars.locator("figcaption").text_content()) == "Trainers and variants compared"
    told = bars.locator(".bar").all_text_contents()
    assert [text.partition(" ·")[0].rstrip("0123456789,.K") for text in told[:6]] == names
    assert told[0].endswith(" · 0.50×") and told[4].endswith(" · 1.25×")
    # No mean over trainers before one is asked for.
    rows = page.locator("#pivot tbody th").all_text_contents()
    assert rows == [f"{model}, {name}" for model in ("m1", "m2") for name in names]
    page.locator("#pivot").get_by_label("Rows").select_option("trainer")
    assert page.locator("#pivot tbody th").all_text_contents() == ["zsh", "ours", "fish"]
    page.locator("#throughput input[type=search]").fill("trainer=ours gpus>1")
    assert set(column(page, "Trainer")) == {"ours"}
    assert len(column(page, "Model")) == 4


def test_trainers_of_one_model_and_gpu_count(open_page: Open, tmp_path: Path) -> None:
    block = {"cluster": "here", "model": "m1", "gpus": 1, "trainer": ["ours", "zsh", "fish"]}
    page = open_page(write_report({**TRAINERS, "grid": [block]}, tmp_path, estimated=False))
    assert looks(page, LOSSES) == ["m1, ours", "m1, zsh", "m1, fish"]
    assert len(set(page.evaluate(f"{LOSSES}.map((s) => s.colour)"))) == 3
    assert page.locator("figure:visible").first.get_attribute("data-bars") == "variants"
    assert page.locator("[data-bars=variants] figcaption").text_content() == "Trainers compared"
    assert page.locator("#found thead th").first.text_content() == "Trainer"
    assert "The fastest trainer of m1 is fish: 1.25 × ours." in str(
        page.locator("#found").text_content()
    )
    assert page.locator("#pivot thead th").all_text_contents()[0] == "trainer \\ model"


def test_no_two_lines_look_the_same(demo: Path, open_page: Open, tmp_path: Path) -> None:
    assert len(looks(open_page(demo), LOSSES)) == 8
    variants = {
        **ONE_COUNT,
        "grid": [{**block, "model": ["m1", "m2"]} for block in ONE_COUNT["grid"]],
    }
    page = open_page(write_report(variants, tmp_path, estimated=False))
    assert len(looks(page, LOSSES)) == 6
    styles = page.evaluate("Array.from({ length: 40 }, (_, i) => JSON.stringify(dashOf(i)))")
    assert len(set(styles)) == 40


def test_points_at_one_gpu_count_are_told_apart_by_their_marks(
    open_page: Open, tmp_path: Path
) -> None:
    """Of points alone no dash is seen. Only m3 is measured on two counts: one ideal line."""
    page = open_page(write_report(RATES, tmp_path, estimated=False))
    marks = page.evaluate(
        """scalingSeries("tokens_per_s")
        .map((s) => [s.colour, s.hollow, markPath(s.shape, 0, 0, 1)].join())"""
    )
    assert len(marks) == len(set(marks)) == 2 * 4 + 2
    (ideal,) = page.evaluate('linearScaling(scalingSeries("tokens_per_s"), true)')
    (base,) = page.evaluate('scalingSeries("tokens_per_s").filter((s) => s.x.length > 1)')
    assert base["label"] == "m3"
    assert ideal == {"x": [1, 2], "y": [base["y"][0], 2 * base["y"][0]]}
    assert len(page.evaluate("distinct([...SHAPES.keys()].map((i) => markPath(i, 0, 0, 1)))")) == 8


def test_variants_that_cannot_differ_in_speed_are_compared_by_their_losses(
    open_page: Open, tmp_path: Path
) -> None:
    page = open_page(write_report(RATES, tmp_path / "rates", estimated=False))
    bars = page.locator("[data-bars=variants]")
    offered = bars.get_by_label("Measure").locator("option").all_text_contents()
    assert "Held-out loss" in offered and "Tokens/s/GPU" not in offered
    assert bars.locator(".fill").count() == 2 * 4
    # A run that diverged is no repeat of one that did not.
    page.evaluate("DATA.speeds.forEach((row) => (row.diverged = row.alike != null))")
    values = page.evaluate("DATA.speeds.slice(0, 4).map((row) => row.tokens_per_s)")
    kept = page.evaluate("settled(DATA.speeds.slice(0, 4)).map((row) => row.tokens_per_s)")
    assert len(values) == 4 and kept == values[:1]
    # With an optimizer as well, its speed is beside the mean of the four rates.
    rates = RATES["grid"][0]
    muon = {"cluster": "here", "model": "m1", "gpus": 1, "variant": "muon"}
    changes = {**RATES, "variants": {"muon": {"optim": {"name": "muon"}}}, "grid": [rates, muon]}
    page = open_page(write_report(changes, tmp_path / "muon", estimated=False))
    told = page.locator("[data-bars=variants] .bar .name").all_text_contents()
    assert told == ["lr-0.001", "muon"]
