"""The charts of the report, in Chromium."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.study.show.browsed import DEMO, IN_CHROMIUM, Open, ink, write_report

pytestmark = IN_CHROMIUM

CHARTS = ("loss", "speed", "efficiency", "estimates")


def test_every_chart_is_drawn(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    for name in CHARTS:
        assert page.locator(f"[data-chart={name}] canvas").is_visible(), name
        assert ink(page, name) > 200, name
    keys = page.locator("[data-chart=estimates] .keys label").all_text_contents()
    assert all(key.startswith("from the others, ") for key in keys)
    assert page.locator("[data-bars=variants] .fill").count() == 4  # m2 on 1 and 2 GPUs, 2 variants
    assert page.locator("[data-bars=times] .parts").count() == 14 + 1
    names = page.locator("[data-bars=times] .name").all_text_contents()
    assert names[:2] == ["m1, 1 GPU, seed 42", "m1, 1 GPU, seed 43"]
    assert "m2, 2 GPUs, strong" in names
    assert page.get_by_role("heading", name="MFU by model").is_visible()
    (mark,) = page.locator("[data-chart=loss] .tools > span").all_text_contents()  # by itself
    assert mark == "○ held-out loss"
    # What is found, failed and asked stands above the figures, and the tables below.
    tops = [
        page.locator(f"#{name}").bounding_box()["y"]  # type: ignore[index]
        for name in ("found", "missing", "figures", "estimates", "throughput", "runs")
    ]
    assert tops == sorted(tops)
    assert tops[2] < 1000


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


def test_the_mean_of_seeds_begins_with_most_of_them(demo: Path, open_page: Open) -> None:
    """Against time, the first loss of a run that starts later raised the mean."""
    drawn = open_page(demo).evaluate(
        "bandOf([{x: [7, 8, 9, 10], y: [6, 4, 3, 2.5]}, {x: [9, 10], y: [6, 4]}])"
    )
    assert drawn["y"] == [None, None, 4.5, 3.25]
    assert (drawn["low"], drawn["high"]) == ([6, 4, 3, 2.5], [6, 4, 6, 4])


def test_held_out_losses_beyond_every_line_are_within_the_axes(demo: Path, open_page: Open) -> None:
    page = open_page(demo)
    x, y = page.evaluate(
        """Chart.prototype.axes.call({
          spec: { x: () => ({}), y: () => ({}) }, ideal: [],
          shown: [{ x: [1, 2], y: [4, 3], rings: [[3, 2.5], [null, 9]] }],
        })"""
    ).values()
    assert x["range"] == pytest.approx([0.9, 3.1])
    assert y["range"] == pytest.approx([2.425, 4.075])


def test_a_run_that_diverged_does_not_flatten_the_others(demo: Path, open_page: Open) -> None:
    """2 to 3000 nats beside 3 to 4; alone it is shown whole."""
    page = open_page(demo)
    both = page.evaluate(
        """() => {
          const wild = { x: [1, 2], y: [2, 3000], diverged: true };
          const range = (shown) => Chart.prototype.axes.call({
            spec: { x: () => ({}), y: () => ({}) }, ideal: [], shown,
          }).y.range;
          return [range([{ x: [1, 2], y: [4, 3] }, wild]), range([wild])];
        }"""
    )
    assert both[0] == pytest.approx([1.9, 4.1])
    assert both[1][1] > 3000


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


DRAWN_TEXTS = """async () => {
  const texts = [];
  const write = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
    const chart = this.canvas.closest("[data-chart]")?.dataset.chart;
    const half = this.measureText(text).width / 2;
    if (text && this.textAlign === "center") texts.push([chart, text, x - half, x + half]);
    write.call(this, text, x, y);
  };
  redraw();
  await new Promise((done) => setTimeout(done, 300));
  return texts;
}"""


def test_gpu_counts_do_not_run_into_each_other(open_page: Open, tmp_path: Path) -> None:
    counts = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    study = {
        **DEMO,
        "clusters": {"here": {"gpus_per_node": 256}},
        "grid": [{"cluster": "here", "model": "m1", "gpus": counts}],
    }
    page = open_page(write_report(study, tmp_path, estimated=False), width=390)
    texts = page.evaluate(DRAWN_TEXTS)
    shown = [item for item in texts if item[0] == "efficiency" and item[1].isdigit()]
    names = [int(text) for _, text, *_ in shown]
    assert {1, 16, 64, 256} <= {*names} < {*counts}
    assert all(end < begin for (*_, end), (*_, begin, _) in pairwise(shown))
