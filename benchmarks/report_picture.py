"""The README's picture of a report: its first screen, in headless Chromium.

snakemake --cores all
python -m benchmarks.report_picture --report results/demo/report.html --output docs/report.png
"""

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks import command_line, run

WIDTH, HEIGHT = 1280, 1190
"""The first screen and the first figures, CSS pixels."""


def take_picture(report: Path, picture: Path) -> None:
    """Write a PNG of the top of a report as it opens from disk, in the light theme."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        page.locator("[data-chart=loss] canvas").wait_for()
        page.screenshot(path=picture)
        browser.close()


def main() -> None:
    """Write the picture."""
    parser = command_line(__doc__)
    parser.add_argument("--report", type=Path, default=Path("results/demo/report.html"))
    parser.add_argument("--output", type=Path, default=Path("docs/report.png"))
    options = parser.parse_args()
    options.report.open("rb").close()  # the browser would show a page of its own, and wait
    take_picture(options.report, options.output)


if __name__ == "__main__":
    run(main)
