"""The page as a whole, in Chromium: in the dark, on a phone, on paper, read aloud, and large."""

import re
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.study.show.browsed import AXE, DEMO, IN_CHROMIUM, Open, column, ink, write_report
from tests.waiting import wait_until

pytestmark = IN_CHROMIUM


def test_dark_mode(demo: Path, open_page: Open) -> None:
    page = open_page(demo, scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
    assert ink(page, "speed", "#0072b2") == 0  # too dark on black
    assert ink(page, "speed", "#4aa8e0") > 50
    page.emulate_media(color_scheme="light")
    wait_until(lambda: ink(page, "speed", "#0072b2") > 50, "drawn again, in light colours")


@pytest.mark.parametrize("study", ["demo", "large"])
def test_a_phone_scrolls_only_down(study: str, open_page: Open, request: Any) -> None:
    page = open_page(request.getfixturevalue(study), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    wide = page.evaluate(
        """[...document.querySelectorAll("main *")].filter((e) => {
          const box = e.getBoundingClientRect();
          return box.width && box.right > 391 && !e.closest(".scroll, nav, .keys, .hidden, pre");
        }).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    assert ink(page, "speed") > 100


LONG = {
    "study": "long",
    "models": {
        f"my-very-long-model-name-with-number-{n:03}": {"dim": 64 * n, "n_layers": 2, "n_heads": 2}
        for n in range(1, 8)
    },
}


def test_on_a_phone_notes_are_no_narrow_column(demo: Path, open_page: Open) -> None:
    """A row was as high as its note: eight lines, beside the model's name alone."""
    notes = open_page(demo, width=390).locator("#estimates td.prose")
    assert notes.count() > 3
    assert min(notes.evaluate_all("notes => notes.map((note) => note.offsetWidth)")) >= 320


def test_on_a_phone_a_menu_of_long_names_fits(open_page: Open, tmp_path: Path) -> None:
    names = [f"a-variant-that-says-{n}-and-all-of-its-settings-in-its-name" for n in "ab"]
    variants = {name: {"data": {"batch_size": 2 + n}} for n, name in enumerate(names)}
    block = {"cluster": "here", "model": "m1", "gpus": 1, "variant": names}
    study = {**DEMO, "variants": variants, "grid": [block]}
    page = open_page(write_report(study, tmp_path, estimated=False), width=390)
    assert page.locator("[data-bars=variants]").get_by_label("Base").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize(("width", "columns"), [(1280, 3), (390, 2)])
def test_numbers_are_seen_beside_long_names(
    open_page: Open, tmp_path: Path, width: int, columns: int
) -> None:
    block = {"cluster": "here", "model": list(LONG["models"]), "gpus": [1, 2, 4]}
    path = write_report({**LONG, "grid": [block]}, tmp_path, estimated=False)
    page = open_page(path, width=width)
    region = page.locator("#found .scroll")
    edge = region.evaluate("(box) => box.getBoundingClientRect().right")
    ends = region.evaluate(
        """(box) => [...box.querySelectorAll("tbody tr")].map((row) =>
          [...row.cells].map((cell) => cell.getBoundingClientRect().right))"""
    )
    assert len(ends) == 7
    assert all(right <= edge + 1 for row in ends for right in row[: columns + 1])
    # A name has a few lines, and no line for each of its words.
    heights = region.evaluate(
        "(box) => [...box.querySelectorAll('tbody th')].map((name) => name.clientHeight)"
    )
    assert max(heights) < 120
    # A shadow tells that there is more to the right.
    assert "gradient" in region.evaluate("(box) => getComputedStyle(box).backgroundImage")


def test_the_base_of_each_model_is_drawn_at_first(open_page: Open, tmp_path: Path) -> None:
    """12 of 7 + 3 * 5 series: the base ones, and five others."""
    block = {"cluster": "here", "model": list(LONG["models"]), "gpus": 1}
    rates = {**block, "model": block["model"][:3]}
    rates["sweep"] = {"optim.lr": [1e-4, 2e-4, 5e-4, 1e-3, 2e-3]}
    path = write_report({**LONG, "grid": [block, rates]}, tmp_path, estimated=False)
    page = open_page(path)
    shown = page.locator("[data-chart=loss] .keys label:has(input:checked)").all_text_contents()
    assert len(shown) == 12
    assert set(LONG["models"]) <= set(shown)
    assert page.evaluate("evenly([1, 2, 3], 1)") == [1]
    assert page.evaluate("evenly([1, 2, 3], 0)") == []


def test_on_a_phone_a_few_missing_cells_are_told_in_full(open_page: Open, tmp_path: Path) -> None:
    block = {"cluster": "here", "model": "m1", "gpus": 1}
    few = {**DEMO, "study": "few", "grid": [block, {**block, "variant": "broken"}]}
    page = open_page(write_report(few, tmp_path, estimated=False), width=390)
    (told,) = page.locator("#missing ul").all()
    told.locator("li").first.evaluate("(item) => (item.style.minHeight = '1000px')")
    assert told.evaluate("(list) => list.clientHeight >= 1000")
    # Many are scrolled.
    told.evaluate("(list) => { for (let i = 0; i < 9; i++) list.append(make('li')); }")
    assert told.evaluate("(list) => list.clientHeight < 400 && list.scrollHeight >= 1000")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(demo: Path, open_page: Open, scheme: str) -> None:
    assert AXE is not None
    page = open_page(demo, scheme=scheme)
    page.evaluate("document.querySelectorAll('details:not(.run)').forEach((d) => (d.open = true))")
    page.locator("details.run").first.evaluate("(run) => (run.open = true)")
    page.evaluate(AXE.read_text())
    rules = ["color-contrast"] if scheme == "dark" else []  # the others do not depend on it
    found = page.evaluate("(only) => axe.run(only.length ? {runOnly: only} : {})", rules)[
        "violations"
    ]
    told = [(item["id"], item["nodes"][0]["html"]) for item in found]
    assert told == []


def test_on_paper_nothing_is_cut(demo: Path, open_page: Open, tmp_path: Path) -> None:
    page = open_page(demo, scheme="dark")
    page.locator("#throughput > summary").click()  # folded on the screen, not on paper
    headings = [text.split() for text in page.locator("#throughput th").all_text_contents()]
    page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert not page.locator("#throughput table").is_visible()
    words = pdf_words(tmp_path / "report.pdf")
    width, height = words[0][1]
    assert width > height  # landscape
    for text, _, (left, right) in words:
        assert left > 20 and right < width - 20, text
    printed = [text for text, _, _ in words]
    for parts in headings:
        assert all(part in printed for part in parts), parts
    assert "m2" in printed
    assert printed.count("completed") >= 14  # in one piece


def pdf_words(path: Path) -> list[tuple[str, tuple[float, float], tuple[float, float]]]:
    """Return the words of a PDF, with the size of their page and their left and right ends, pt."""
    command = ["pdftotext", "-bbox", str(path), "-"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    output = re.sub(r"[\x00-\x08\x0b-\x1f]", "", output)
    found = []
    for page in ElementTree.fromstring(output).iter("{http://www.w3.org/1999/xhtml}page"):
        size = (float(page.attrib["width"]), float(page.attrib["height"]))
        for word in page.iter("{http://www.w3.org/1999/xhtml}word"):
            ends = (float(word.attrib["xMin"]), float(word.attrib["xMax"]))
            found.append((word.text or "", size, ends))
    return found


def test_200_cells_of_1000_records_open_quickly(large: Path, open_page: Open) -> None:
    assert large.stat().st_size < 20e6
    page = open_page(large)
    session = page.context.new_cdp_session(page)
    # CPU time, as this machine may be busy with other tests.
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.reload()
    metrics = session.send("Performance.getMetrics")["metrics"]
    spent = {item["name"]: item["value"] for item in metrics}
    assert 0 < spent["TaskDuration"] < 3
    assert "200 of 200 cells measured" in str(page.locator("header").text_content())
    assert page.locator("[data-chart=loss] .keys input").count() == 20
    assert page.locator("[data-chart=loss] .keys input:checked").count() == 12
    assert len(column(page, "Model")) == 200
    points = page.evaluate("DATA.curves.map((curve) => curve.loss.length)")
    assert len(points) == 200
    assert min(points) > 400
