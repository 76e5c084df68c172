"""Figures as files: one style, two widths of a paper's columns, and sensible ticks on log axes."""

import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from study.files import write_file
from study.formats import format_count
from study.sequences import group_by

STYLE = Path(__file__).with_name("figures.mplstyle")

COUNTS = FuncFormatter(lambda value, _: format_tick(value))

SCIENTIFIC = FuncFormatter(lambda value, _: format_scientific(value))

METADATA: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
"""Format -> what matplotlib would write into a file that differs between equal figures."""


@dataclass(frozen=True)
class Sheet:
    """The place for a figure on a page."""

    ending: str
    """Added to the file's name."""
    width: float
    """Inches."""
    columns: int
    """Most panels side by side."""
    formats: Sequence[str]

    @property
    def is_narrow(self) -> bool:
        """The legend is below the panels, not beside them."""
        return self.columns == 1

    def shorten(self, names: Iterable[str], most: int | None = None) -> list[str]:
        """Return names, each without its middle if it would leave no room for what it names.

        Different names stay different, by what they differ in or, if that is too long, by a number.
        `most`: letters; by default those of a label of the sheet.
        """
        known = list(names)
        letters = most or (26 if self.is_narrow else 52)
        short = {name: cut_middle(name, letters) for name in known}
        for alike in group_by(short, lambda name: cut_middle(name, letters)).values():
            if len(alike) > 1:
                short |= zip(alike, _keep_difference(alike, letters), strict=True)
        times = Counter(short.values())
        for number, name in enumerate(short, 1):
            if times[short[name]] > 1:
                short[name] = f"{cut_middle(name, letters - 5)} ({number})"
        return [short[name] for name in known]


def cut_middle(name: str, most: int) -> str:
    """Return a name of at most so many letters, without its middle if it has more."""
    kept = (most - 1) // 2
    return name if len(name) <= most else f"{name[:kept]}…{name[-kept:]}"


def _keep_difference(names: Sequence[str], most: int) -> list[str]:
    """Return names without what they have in common beside what they differ in.

    If need be they have half as many letters again. If that is not enough, they become the same.
    """
    before = _count_common(names)
    after = _count_common([name[before:][::-1] for name in names])
    needed = max(map(len, names)) - before - after + len("……")
    letters = most if most - needed >= LEAST_IN_COMMON else 3 * most // 2
    room = letters - needed
    if room < LEAST_IN_COMMON:
        return [cut_middle(name, most) for name in names]
    tail = min(after, room // 2)
    head, gap = min(before, room - tail), "…" if after > tail else ""
    return [
        f"{name[:head]}…{name[before : len(name) - after]}{gap}{name[len(name) - tail :]}"
        for name in names
    ]


LEAST_IN_COMMON = 6
"""Letters of what names have in common that are shown at least beside what they differ in."""


def _count_common(names: Sequence[str]) -> int:
    """Return how many letters names have in common at their beginning."""
    letters = enumerate(zip(*names, strict=False))
    return next((at for at, each in letters if len({*each}) > 1), min(map(len, names)))


SHEETS = (
    Sheet("", 7.0, 3, ("svg", "png", "pdf")),
    Sheet("_column", 3.4, 1, ("svg", "pdf")),
)
"""Double and single column. study/show/forms.py lists the files."""


def write_figure(path: Path, draw: Callable[[Sheet], Figure]) -> list[Path]:
    """Draw a figure for each sheet; return the files written: `path`, which has no suffix, with the
    endings and formats of `SHEETS`."""
    paths = []
    for sheet in SHEETS:
        with mpl.rc_context(fname=STYLE):
            figure = draw(sheet)
            FigureCanvasAgg(figure)
            for suffix in sheet.formats:
                content = io.BytesIO()
                metadata: Any = METADATA[suffix]
                figure.savefig(content, format=suffix, dpi=200, metadata=metadata)
                # Laid out once: with an engine, even one that does nothing, each is drawn twice.
                mpl.rcParams["figure.constrained_layout.use"] = False
                figure.set_layout_engine(None)
                paths.append(path.with_name(f"{path.name}{sheet.ending}.{suffix}"))
                write_file(paths[-1], content.getvalue())
    return paths


def make_panels(
    sheet: Sheet, count: int, y_label: str, x_label: str, share_x: bool
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels that share their axes."""
    columns = min(sheet.columns, 2 if count == 4 else count)
    rows = -(-count // columns)
    height = 3.6 if count == 1 and not sheet.is_narrow else 2.4 * rows + 0.3
    figure = Figure(figsize=(sheet.width, height))
    grid = figure.subplots(rows, columns, sharex=share_x, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[:count]:
        ax.tick_params(labelbottom=True)
    if sheet.is_narrow:  # the legend is between the panels and the figure's edge
        for ax in axes[:count]:
            ax.set_ylabel(y_label)
        axes[count - 1].set_xlabel(x_label)
    else:
        figure.supylabel(y_label)
        figure.supxlabel(x_label)
    return figure, axes[:count]


def empty_figure(message: str, sheet: Sheet) -> Figure:
    """Return a figure that says why there is nothing to draw."""
    figure = Figure(figsize=(sheet.width, 2.0))
    figure.text(0.5, 0.5, message, ha="center", va="center", color="#666666", wrap=True)
    return figure


def format_tick(value: float) -> str:
    """Return a number with up to three digits: 0.002, 131K, 1e18."""
    if 1e3 <= value < 1e15:
        return format_count(value)
    return f"{value:.3g}".replace("e+", "e")


def format_scientific(value: float) -> str:
    """Return a number with its power of ten, as FLOPs are written: 3e12."""
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


MULTIPLES = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))
"""Multiples of powers of ten for the ticks of a log axis, from few to many."""


SHORTEST = 1.05
"""Least ratio of the ends of a log axis: on a shorter one, ticks of three digits look the same."""


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return ticks for a log axis from `low` to `high`: up to `most` round numbers in it, at least
    three if the axis is no shorter than a few per cent."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    best: list[float] = []
    for multiples in MULTIPLES:
        ticks = [m * 10.0**n for n in decades for m in multiples]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) > most:
            # A longer axis than its decades have room for: every second, every third of them.
            return best or inside[:: -(-len(inside) // most)]
        best = inside
    if len(best) >= 3:
        return best
    # Within one digit: evenly spaced round numbers, as on a linear axis.
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= max(m for m in (1, 2, 5) if m * step <= (high - low) / 2)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def label_log_axis(
    axis: Axis, formatter: FuncFormatter = COUNTS, most: int = 6, ratio: float = SHORTEST
) -> None:
    """Put `log_ticks` on an axis whose data are drawn, and let it span at least a ratio."""
    low, high = axis.get_view_interval()
    if high / low < ratio:
        middle, half = math.sqrt(low * high), math.sqrt(ratio)
        low, high = middle / half, middle * half
        set_limits = axis.axes.set_xlim if axis is axis.axes.xaxis else axis.axes.set_ylim
        set_limits(low, high)
    axis.set_major_locator(FixedLocator(log_ticks(low, high, most)))
    axis.set_major_formatter(formatter)
    axis.set_minor_locator(NullLocator())
