"""The tables of the report, what failed and each run, in Chromium."""

import re
from pathlib import Path

import pytest

from tests.study.show.browsed import IN_CHROMIUM, Open, column

pytestmark = IN_CHROMIUM


def test_what_failed_has_its_reason_and_the_end_of_its_log(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    item = page.locator("#missing li")
    assert item.count() == 1
    assert "m2/gpus-1/broken/seed-42: failed (7 of 40 steps; rank 0: no memory left)" in str(
        item.text_content()
    )
    assert not item.locator("pre").is_visible()
    item.locator("summary").click()
    assert item.locator("pre").text_content() == "step 7\nRuntimeError: the last line of the log"
    assert "failed" in str(page.locator("#found table").text_content())


def test_tables_sort_and_filter(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    before = column(page, "Tokens/s")
    numbers = [float(text.replace(",", "")) for text in before if text]
    head = page.locator("#throughput th", has_text=re.compile("^Tokens/s$"))
    head.get_by_role("button").click()
    assert column(page, "Tokens/s") == [f"{n:,.0f}" for n in sorted(numbers)] + [""]
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").press("Enter")  # by keyboard
    assert column(page, "Tokens/s") == [f"{n:,.0f}" for n in sorted(numbers, reverse=True)] + [""]
    field = page.locator("#throughput input[type=search]")
    field.fill("m2 gpus>1")
    assert column(page, "Model") == ["m2"] * 5
    assert set(column(page, "GPUs")) == {"2", "4"}
    assert "5 of 15 rows" in str(page.locator("#throughput .tools").text_content())
    field.fill("")
    assert len(column(page, "Model")) == 15


def test_a_filter_names_a_column_as_a_whole_or_by_a_part(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    heads = ["Model", "Tokens/step", "Step p50 (ms)", "Tokens/s", "Tokens/s/GPU"]
    names = ["tokens/s", "TOKENS/S/GPU", "tokens", "stepp50(ms)", "step", "p50", "loss"]
    found = page.evaluate(
        "([names, heads]) => names.map((n) => findColumn(n, heads))", [names, heads]
    )
    assert found == [3, 4, 1, 2, 2, 2, -1]
    speeds = sorted(float(text.replace(",", "")) for text in column(page, "Tokens/s") if text)
    page.locator("#throughput input[type=search]").fill(f"tokens/s<{speeds[2]:.0f}")
    assert len(column(page, "Tokens/s")) == 2


def test_a_filter_finds_names_with_the_mark_of_a_footnote(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    for name in ("m2¹", "m2¹² ³", "m2*", "m2* ²", "m2"):
        page.evaluate(
            """(name) => [...document.querySelectorAll("#throughput tbody tr")].forEach((row) => {
              row.cells[2].textContent = row.cells[2].textContent.replace(/^m2.*/, name);
            })""",
            name,
        )
        page.locator("#throughput input[type=search]").fill("model=m2")
        assert column(page, "Model") == 9 * [name]
        page.locator("#throughput input[type=search]").fill("model=m")
        assert column(page, "Model") == []


def test_times_sort_by_their_unit(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    times = page.evaluate('["2.5 min", "3 s", "~1 h", "40 s", "2 days"].map(sortKey)')
    assert times == [150, 3, 3600, 40, 172800]
    assert page.evaluate('["27.5M", "1.2B", "131K"].map(sortKey)') == [27.5e6, 1.2e9, 131e3]


def test_names_sort_by_the_numbers_in_them(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    in_order = [
        ["350m", "1b", "1.3b", "7b"],
        ["d6", "d12", "m1/gpus-2/base", "m1/gpus-16/base", "m2/gpus-1/base"],
        ["lr-1e-4", "lr-0.003", "lr-0.01", "lr-0.01-long", "lr-1"],
        ["small", "small*"],
    ]
    for names in in_order:
        shuffled = sorted(names, key=lambda name: name[::-1])
        sort = "(names) => names.sort((a, b) => compareKeys(sortKey(a), sortKey(b)))"
        assert page.evaluate(sort, shuffled) == names


def test_numbers_are_rounded_before_their_unit_is_chosen(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    assert page.evaluate("[999940, 999960, 9999.6].map(format)") == ["999.9K", "1M", "10K"]


def test_the_pivot_table_has_means(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    rows = page.locator("#pivot tbody th").all_text_contents()
    assert rows == ["m1", "m2", "m2, strong"]  # no mean over variants before one is asked for
    page.locator("#pivot").get_by_label("Value").select_option("tokens_per_s_per_gpu")
    page.locator("#pivot").get_by_label("Rows").select_option("model")
    page.locator("#pivot").get_by_label("Columns").select_option("seed")
    page.locator("#pivot").get_by_label("of several runs the").select_option("count")
    cells = page.locator("#pivot td").all_text_contents()
    assert cells == ["3", "3", "5", "3"]  # m1: 3 counts for each seed; m2: 2 variants more
    page.locator("#pivot").get_by_label("of several runs the").select_option("highest")
    speeds = [float(t.replace(",", "")) for t in column(page, "Tokens/s/GPU")[:6:2]]
    highest = page.locator("#pivot td").first.text_content()
    assert float(str(highest).removesuffix("K")) == pytest.approx(max(speeds) / 1e3, rel=1e-3)


def test_headings_have_their_definition(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    head = page.locator("#throughput th", has_text="Step p90 (ms)").get_by_role("button")
    head.focus()
    assert page.locator("#tip").text_content() == "90th percentile of the step time, ms."
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    head.hover()
    assert page.locator("#tip").is_visible()
    missing = page.locator("#throughput th:not([data-tip])")
    assert missing.all_text_contents() == []
    tips = page.locator("th[data-tip]").evaluate_all("(all) => all.map((one) => one.dataset.tip)")
    assert [tip for tip in tips if "`" in tip or not (tip[0].isupper() or tip[0].isdigit())] == []


def test_a_run_has_its_settings_and_command(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    run = page.locator("details.run", has_text="m2/gpus-2/strong/seed-42")
    run.locator("summary").click()
    text = str(run.text_content())
    assert re.search(r"data\.batch_size\s*8\s*4", text)
    launch = "torchrun --nproc_per_node=2 --standalone --local-addr=localhost -m trainer config="
    assert launch in text
    assert "n_layers: 2" in text
    assert "0123456789abcdef" in text
