"""The report in headless Chromium, from disk and without a network.

Needs Chromium, pdftotext and axe-core: tests/study/show/browser/install.sh.
"""

import json
import math
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from study.config import Study
from study.estimate.accuracy import Accuracy
from study.estimate.estimate import estimate_table
from study.estimate.scored import ScoredPrediction
from study.grid import Cell, Grid
from study.measure.measurement import read_measurements
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import to_frame, write_table
from study.show.report import render_report
from tests.study.conftest import STUDY, make_summary, write_run
from trainer.layers import merge
from trainer.settings import validate
from trainer.yaml_files import parse_yaml

BROWSER = Path(__file__).parent / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = next(BROWSER.glob("axe-core-*/axe.min.js"), None)

LACKING = [
    name
    for name, found in {
        "chromium": CHROMIUM,
        "pdftotext": shutil.which("pdftotext"),
        "axe-core": AXE,
    }.items()
    if found is None
]

pytestmark = [
    pytest.mark.xdist_group("browser"),  # one process, with one browser
    pytest.mark.skipif(
        bool(LACKING),
        reason=f"no {', '.join(LACKING)}: run tests/study/show/browser/install.sh as root on "
        "Debian or Ubuntu, or install them",
    ),
]

SHAPES = {
    f"m{width}": {"dim": 64 * width, "n_layers": 2, "n_heads": 2} for width in (1, 2, 3, 4, 5)
}

DEMO = {
    "study": "demo",
    "models": SHAPES,
    "variants": {"strong": {"data": {"batch_size": 4}}, "broken": {"optim": {"lr": 1.0}}},
    "clusters": {"here": {"peak_tflops": 0.2}},
    "grid": [
        {"cluster": "here", "model": ["m1", "m2"], "gpus": [1, 2, 4], "seed": [42, 43]},
        {"cluster": "here", "model": "m2", "gpus": [1, 2], "variant": "strong"},
        {"cluster": "here", "model": "m2", "gpus": 1, "variant": "broken"},
        {"cluster": "here", "model": "m3", "gpus": 4, "measure": False},
    ],
}

LARGE: dict[str, Any] = {
    "study": "large",
    "models": SHAPES,
    "run": {"steps": 1000, "logging": {"freq": 1}},
    "clusters": {"here": {"peak_tflops": 0.2}},
    "grid": [
        {"cluster": "here", "model": list(SHAPES), "gpus": [1, 2, 3, 4], "seed": [*range(10)]}
    ],
}

ONE_COUNT = {
    "study": "variants",
    "models": SHAPES,
    "variants": {f"switch{i}": {"data": {"seq_len": 2**i}} for i in (5, 6, 7, 8)},
    "grid": [
        {"cluster": "here", "model": "m1", "gpus": 1, "variant": ["base", "switch5", "switch8"]}
    ],
}

OTHER = {"launcher": "none", "script": "zsh", "log": {"format": "json", "fields": {"step": "n"}}}

TRAINERS = {
    "study": "trainers",
    "models": SHAPES,
    "trainers": {"zsh": OTHER, "fish": OTHER},
    "variants": {"strong": {"data": {"batch_size": 4}}},
    "clusters": {"here": {"peak_tflops": 0.2}},
    "grid": [
        {"cluster": "here", "model": ["m1", "m2"], "gpus": [1, 2],
         "trainer": ["zsh", "ours", "fish"], "variant": ["base", "strong"]},
    ],
}  # fmt: skip

CHARTS = ("loss", "speed", "efficiency", "estimates")


SLOWER = {"zsh": 2.0, "fish": 0.8}
"""Trainer -> its step time, as a multiple of that of ours."""


def train(cell: Cell) -> None:
    """Write a run of which speed and loss follow from its cell."""
    if cell.variant == "broken":
        write_run(cell, status="failed", outcome=None, steps_done=7)
        Path(cell.folder, "metrics.jsonl").unlink()
        failure = {"kind": "error", "rank": 0, "retry": False, "message": "rank 0: no memory left"}
        Path(cell.folder, "failure.json").write_text(json.dumps(failure))
        log = "\x1b[31mstep 7\x1b[0m\nRuntimeError: the last line of the log\n"
        Path(cell.folder, "train.log").write_text(log)
        return
    first = Path(cell.folder).with_name("seed-0")
    if cell.run.seed > 0 and cell.run.steps == LARGE["run"]["steps"] and first.exists():
        # Writing 200,000 records takes longer than all tests.
        Path(cell.folder).mkdir(parents=True)
        shutil.copy(first / "metrics.jsonl", cell.folder)
        Path(cell.folder, "run.json").write_text(json.dumps(make_summary(cell, 4.0, 900.0)))
        return
    noise = random.Random(cell.name)
    step_s = cell.params * 1e-7 * (1 + 0.05 * math.log2(cell.gpus))
    step_s *= SLOWER.get(cell.trainer, 1.0)

    def loss(step: int) -> float:
        return 2 + 4 / (1 + step / 30) ** 0.6 + noise.gauss(0, 0.02)

    write_run(cell, [step_s, 1.04 * step_s], loss=loss, evaluations={cell.run.steps: 3.0})


def write_report(changes: dict[str, Any], folder: Path, estimated: bool = True) -> Path:
    """Return the report of a study of which every cell to measure was trained.

    Without `estimated`, predictions are made up: there are hundreds.
    """
    values = merge(parse_yaml(STUDY, "study.yaml"), changes)
    values["results_dir"] = str(folder / "results")
    grid = Grid(validate(Study, values, "study.yaml"))
    for cell in grid.measured:
        train(cell)
    rows = throughput_rows(grid)
    write_table(rows, folder / "throughput.csv")
    measurements = read_measurements(folder / "throughput.csv", grid)
    if estimated:
        estimates = estimate_table(grid, measurements)
        accuracy = Accuracy.of(grid.study, measurements)
    else:
        interval = 1.0, 2.0, 4.0
        left_out = [ScoredPrediction.of(cell.name, 2.0, interval) for cell in grid.configurations]
        estimates, accuracy = [], Accuracy([], left_out, [])
    page = render_report(grid, to_frame(rows), estimates, accuracy, folder, folder)
    (folder / "report.html").write_text(page)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(DEMO, tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(LARGE, tmp_path_factory.mktemp("large"), estimated=False)


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Return a function that opens a page without a network; an error on its console fails."""
    contexts: list[BrowserContext] = []
    messages: list[str] = []
    requests: list[str] = []

    def open_it(path: Path, width: int = 1280, scheme: Any = "light") -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        context.set_default_timeout(120_000)  # the machine may be busy
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: messages.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def column(page: Page, heading: str, section: str = "throughput") -> list[str]:
    """Return the shown cells of a column of a section's first table."""
    return page.evaluate(
        """([section, heading]) => {
          const table = document.querySelector(`#${section} table.data`);
          const place = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent === heading);
          const shown = [...table.tBodies[0].rows].filter((row) => !row.hidden);
          return shown.map((row) => row.cells[place].textContent);
        }""",
        [section, heading],
    )


def ink(page: Page, chart: str, colour: str | None = None) -> int:
    """Return the number of pixels of a chart's canvas that have a colour, or any colour."""
    return page.evaluate(
        """([chart, colour]) => {
          const canvas = document.querySelector(`[data-chart=${chart}] canvas`);
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          const want = colour && [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
          let count = 0;
          for (let i = 0; i < data.length; i += 4) {
            if (!data[i + 3]) continue;
            const [r, g, b] = data.slice(i, i + 3);
            const colourful = Math.max(r, g, b) - Math.min(r, g, b) > 60;
            const wanted = want?.every((w, k) => Math.abs(w - data[i + k]) < 12);
            if (want ? wanted : colourful) count++;
          }
          return count;
        }""",
        [chart, colour],
    )


def test_every_chart_is_drawn(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    for name in CHARTS:
        assert page.locator(f"[data-chart={name}] canvas").is_visible(), name
        assert ink(page, name) > 200, name
    keys = page.locator("[data-chart=estimates] .keys label").all_text_contents()
    assert all(key.startswith("from the others, ") for key in keys)
    assert page.locator("[data-bars=variants] .fill").count() == 4  # m2 on 1 and 2 GPUs, 2 variants
    assert page.locator("[data-bars=times] .parts").count() == 14 + 1
    assert page.get_by_role("heading", name="MFU by model").is_visible()
    # What is found, failed and asked stands above the figures, and the tables below.
    tops = [
        page.locator(f"#{name}").bounding_box()["y"]  # type: ignore[index]
        for name in ("found", "missing", "figures", "estimates", "throughput", "runs")
    ]
    assert tops == sorted(tops)
    assert tops[2] < 1000


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


def test_times_sort_by_their_unit(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    times = page.evaluate('["2.5 min", "3 s", "~1 h", "40 s", "2 days"].map(sortKey)')
    assert times == [150, 3, 3600, 40, 172800]
    assert page.evaluate('["27.5M", "1.2B", "131K"].map(sortKey)') == [27.5e6, 1.2e9, 131e3]


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


def test_cells_are_switched_off(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    chart = page.locator("[data-chart=speed]")
    both = (ink(page, "speed", "#0072b2"), ink(page, "speed", "#e69f00"))
    assert min(both) > 50
    chart.get_by_label(re.compile("^m1")).uncheck()
    assert ink(page, "speed", "#0072b2") == 0
    assert ink(page, "speed", "#e69f00") > 50
    chart.get_by_role("button", name="None").click()
    assert ink(page, "speed") == 0
    chart.get_by_role("button", name="All").click()
    assert ink(page, "speed", "#0072b2") > 50


def test_the_loss_is_drawn_against_each_axis(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    chart = page.locator("[data-chart=loss]")
    data = json.loads(str(page.locator("#data").text_content()))
    cell, curve = data["cells"][0], data["curves"][0]
    plot = chart.locator(".plot")
    first = {"step": 1, "tokens": cell["tokens"], "time": curve["time"][0], "flops": cell["flops"]}
    for axis, value in first.items():
        chart.get_by_label("Against").select_option(axis)
        plot.focus()
        page.keyboard.press("ArrowRight")
        told = str(chart.locator(".reading").text_content())
        assert told.startswith("m1, 1 GPU, 2 seeds; ")
        shown = page.evaluate("format", value) if value != 1 else "1"
        assert f": {shown}; Loss (nats per token): 5." in told, axis
    page.keyboard.press("ArrowDown")
    assert "m1, 2 GPUs" in str(chart.locator(".reading").text_content())
    # Without the band each seed is a line of its own; smoothing keeps the first loss.
    chart.get_by_label("Seeds as a band").uncheck()
    plot.focus()
    page.keyboard.press("ArrowRight")
    assert "m1, 1 GPU, seed 42" in str(chart.locator(".reading").text_content())
    smoothed = page.evaluate("smooth([10, 20, 30], [4, 2, 0], 0.5)")
    assert smoothed == pytest.approx([4, (2 + 1) / 1, 1.5])


def test_a_tooltip_tells_the_point_under_the_pointer(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    page.locator("[data-chart=efficiency]").scroll_into_view_if_needed()
    x, y, value = page.evaluate(
        """() => {
          const chart = document.querySelector("[data-chart=efficiency]");
          const over = chart.querySelector(".u-over").getBoundingClientRect();
          const s = scalingSeries("scaling_efficiency", 100)[0];
          const i = s.x.indexOf(4);
          const span = Math.log(4 * 1.2 * 1.2);
          return [over.left + over.width * Math.log(4 * 1.2) / span, over.top, s.y[i]];
        }"""
    )
    box = page.locator("[data-chart=efficiency] .u-over").bounding_box()
    assert box is not None
    told = ""
    for step in range(0, int(box["height"]), 20):  # down the line of 4 GPUs
        page.mouse.move(x, y + step)
        if page.locator("#tip").is_visible():
            told = str(page.locator("#tip").text_content())
            if told.startswith("m1\n"):
                break
    assert "GPU count: 4" in told
    assert f"Scaling efficiency (%): {page.evaluate('format', value)}" in told


def test_dark_mode(demo: Path, open_page: Open) -> None:
    page = open_page(demo, scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
    assert ink(page, "speed", "#0072b2") == 0  # too dark on black
    assert ink(page, "speed", "#4aa8e0") > 50
    page.emulate_media(color_scheme="light")
    page.wait_for_function("!isDark()")
    assert ink(page, "speed", "#0072b2") > 50


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
        assert text.endswith(f"{ratio:.2f} × switch5")


def looks(page: Page, series: str) -> list[str]:
    """Return the labels of series, after asserting that no two look the same."""
    found = page.evaluate(
        f"{series}.map((s) => [s.label, JSON.stringify([s.colour, s.dash, s.width, s.hollow])])"
    )
    labels = [label for label, _ in found]
    assert len({look for _, look in found}) == len(found), found
    return labels


LOSSES = 'lossSeries({ along: "step", smoothing: 0, bands: true })'


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
    assert [text.partition(" ·")[0].rstrip("0123456789.K") for text in told[:6]] == names
    assert told[0].endswith("0.50 × ours") and told[4].endswith("1.25 × ours")
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


def test_a_run_has_its_settings_and_command(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    run = page.locator("details.run", has_text="m2/gpus-2/strong/seed-42")
    run.locator("summary").click()
    text = str(run.text_content())
    assert re.search(r"data\.batch_size\s*8\s*4", text)
    assert "torchrun --nproc_per_node=2 --standalone -m trainer config=" in text
    assert "n_layers: 2" in text
    assert "0123456789abcdef" in text
