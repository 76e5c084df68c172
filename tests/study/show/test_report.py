import html.parser
import re
from pathlib import Path

from study.estimate.basis import MEASURED
from tests.study.conftest import MakeGrid, throughput_table, write_run
from tests.study.show.pages import report


class Links(html.parser.HTMLParser):
    """Collects the resources that a page loads, and its unclosed tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids |= {value or "" for name, value in attrs if name == "id"}
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_complete_and_self_contained(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell)
    page = report(grid, tmp_path)
    links = Links(page)
    assert links.open == []
    assert all(source.startswith(("data:", "#")) for source in links.sources)
    assert {source[1:] for source in links.sources if source.startswith("#")} <= links.ids
    assert "https://" not in re.sub(r"<script id=\"uplot\">.*?</script>", "", page, flags=re.DOTALL)
    assert "4 of 4 cells measured" in page
    assert "torch 2.13.0" in page
    assert "node-1" in page
    assert "Variants compared" in page
    assert "Nothing: every cell to measure was measured" in page
    assert all(f"<b>{basis}</b>: " in page for basis in (*MEASURED, "Estimated"))
    assert page == report(grid, tmp_path)


def test_missing_runs_are_listed(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    write_run(grid[0])
    write_run(grid[1], status="failed", outcome=None, steps_done=7)
    page = report(grid, tmp_path)
    assert f"{grid[1].name}: failed (7 of 40 steps)" in page
    assert f"{grid[2].name}: to run" in page


def test_damaged_runs_are_listed_beside_the_others(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell)
    Path(grid[1].folder, "metrics.jsonl").write_text("")
    Path(grid[2].folder, "run.json").write_text("[]")
    page = report(grid, tmp_path)
    assert "2 of 4 cells measured" in page
    assert f"{grid[1].name}: damaged (metrics.jsonl: ends at step 0; expected step 40" in page
    assert f"{grid[2].name}: damaged (run.json: expected a JSON object, found [])" in page


def test_a_speed_above_the_peak_is_marked_and_explained(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    grid = make_grid({"clusters": {"here": {"peak_tflops": 1e-4}}})
    write_run(grid[0])
    page = report(grid, tmp_path)
    mfu = 100 * float(throughput_table(grid)["mfu"][0])
    assert f"The highest MFU is {mfu:.1f}%†: tiny on 1 GPU." in page
    assert f">MFU {mfu:.3g}%†</span>" in page  # of the first table
    assert f">{mfu:.1f}%†</td>" in page  # of MFU by model
    assert f">{mfu:.1f}†</td>" in page  # of the throughput table
    assert page.count("† above 100%") == 3
    assert page.count("†") == 4 + 3
    assert (
        "<p>† above 100%, which no GPU reaches: peak_tflops or rates of here in clusters.yaml"
        in page
    )
    write_run(grid[0], step_s=1e3)
    assert "†" not in report(grid, tmp_path)


def test_before_any_run(make_grid: MakeGrid, tmp_path: Path) -> None:
    page = report(make_grid(), tmp_path)
    assert page.count("<p>No run has been measured yet.</p>") == 3  # found, figures, throughput
    assert "no measurement on here yet" in page
    assert "Eff: scaling efficiency" not in page
    assert "Pivot table</h2>" not in page
    found = Links(page)
    links = {link[1:] for link in found.sources if link.startswith("#")}
    assert links and links <= found.ids


def test_text_is_escaped(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid({"clusters": {"here": {"gpu_name": "<script>alert(1)</script>"}}})
    write_run(grid[0], hosts=["<b>host</b>"], commit='"&"')
    page = report(grid, tmp_path)
    assert "<script>" not in page
    assert "<b>host" not in page
    assert "&lt;b&gt;host" in page


def test_a_scaling_law_that_was_fitted_is_shown(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    assert "Scaling law</h2>" not in report(grid, tmp_path)
    (tmp_path / "scaling_law.csv").write_text("name,value,low,high\nalpha,0.34,0.31,0.37\n")
    (tmp_path / "scaling_law.svg").write_text("<svg/>")
    page = report(grid, tmp_path)
    assert "Scaling law</h2>" in page
    assert '<td class="number">0.34</td>' in page
    assert 'alt="Scaling law"' in page
