"""Reports for a browser: the studies that they show, and what a page draws.

Needs Chromium, pdftotext and axe-core: tests/study/show/browser/install.sh.
"""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

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

IN_CHROMIUM = [
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

RATES = {
    "study": "rates",
    "models": SHAPES,
    "grid": [
        {"cluster": "here", "model": ["m1", "m2"], "gpus": 1,
         "sweep": {"optim.lr": [1e-3, 3e-3, 1e-2, 3e-2]}},
        {"cluster": "here", "model": "m3", "gpus": [1, 2]},
        {"cluster": "here", "model": "m4", "gpus": 1},
    ],
}  # fmt: skip

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


Open = Callable[..., Page]


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


def looks(page: Page, series: str) -> list[str]:
    """Return the labels of series, after asserting that no two look the same."""
    found = page.evaluate(
        f"{series}.map((s) => [s.label, JSON.stringify([s.colour, s.dash, s.width, s.hollow])])"
    )
    labels = [label for label, _ in found]
    assert len({look for _, look in found}) == len(found), found
    return labels


LOSSES = 'lossSeries({ along: "step", smoothing: 0, bands: true })'
