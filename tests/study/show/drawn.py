"""Draw figures without writing them."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from study.estimate.accuracy import Accuracy
from study.grid import Grid
from study.measure.measurement import read_measurements
from study.measure.run_files import each_run
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import to_frame, write_table
from study.measure.time_by_part import time_by_part
from study.show import plot_estimates, plot_losses, plot_scaling, plot_tables, plot_times
from study.show.curves import Curve
from study.show.sheets import SHEETS, STYLE, Sheet


def draw_losses(grid: Grid, folder: Path) -> list[Path]:
    curves = [Curve.of(cell, run) for cell, run in each_run(grid)]
    return plot_losses.plot_loss_curves(grid, curves, folder)


def draw_all(grid: Grid, folder: Path) -> list[Path]:
    """Draw all figures of a study but those of its analyses."""
    paths = draw_losses(grid, folder)
    times = [(cell, time_by_part(run)) for cell, run in each_run(grid)]
    paths += plot_times.plot_times(grid, times, folder)
    rows = throughput_rows(grid)
    paths += plot_scaling.plot_scaling(grid, to_frame(rows), folder)
    paths += plot_tables.plot_tables(grid, to_frame(rows), folder)
    return paths + plot_estimates.plot_estimates(accuracy_of(grid), folder)


def accuracy_of(grid: Grid) -> Accuracy:
    """Return the accuracy of the estimates of a study's runs; writes its throughput.csv."""
    table = Path(grid.study.folder, "throughput.csv")
    write_table(throughput_rows(grid), table)
    return Accuracy.of(grid.study, read_measurements(table, grid))


def figures_of(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Figure]]:
    """Return file name -> figures, one for each sheet, filled while figures are drawn."""
    drawn: dict[str, list[Figure]] = {}

    def write_figure(path: Path, draw: Callable[[Sheet], Figure]) -> list[Path]:
        with mpl.rc_context(fname=STYLE):
            drawn[path.name] = [draw(sheet) for sheet in SHEETS]
        return []

    for module in (plot_estimates, plot_losses, plot_scaling, plot_tables, plot_times):
        monkeypatch.setattr(module, "write_figure", write_figure)
    return drawn


def draw_on_sheets(draw: Callable[[Sheet], Figure]) -> list[Figure]:
    """Return a figure for each sheet, laid out."""
    figures = []
    with mpl.rc_context(fname=STYLE):
        for sheet in SHEETS:
            figures.append(draw(sheet))
            FigureCanvasAgg(figures[-1]).draw()
    return figures


def texts_beyond(figure: Figure) -> list[str]:
    """Return the labels of a figure's axes and the names in its legends that its edge cuts."""
    texts = []
    for ax in figure.axes:
        legend = ax.get_legend()
        texts += [*ax.get_yticklabels(), ax.xaxis.label, *(legend.get_texts() if legend else [])]
    boxes = {text.get_text(): text.get_window_extent() for text in texts}
    return [text for text, box in boxes.items() if box.x0 < -1 or box.x1 > figure.bbox.x1 + 1]


def legend_texts(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]
