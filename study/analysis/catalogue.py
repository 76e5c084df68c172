"""The analyses of a study: their titles, their tables, and the only reader and writer of these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.analysis.ablations import Difference, compare_with_base
from study.analysis.isoflop import Budget, IsoFlopFit, PowerLaw, fit_isoflops
from study.analysis.learning_rate import BestRate, RateCurve, fit_learning_rates
from study.analysis.series import FINDERS
from study.analysis.tokens_per_parameter import LengthRow, lengths_of
from study.csv_tables import read_as
from study.files import write_csv, write_file
from study.grid import Grid
from study.markdown import markdown_table
from study.measure.losses import final_losses

Readable = tuple[list[str], list[list[str]]]
"""Headings and rows for people."""


@dataclass(frozen=True)
class Analysis:
    """What a report says of an analysis, and its CSVs."""

    title: str
    explanation: str
    tables: Mapping[str, Any]
    """Name of a file without suffix -> type of its rows. The first has the analysis's own name."""


ANALYSES = {
    "learning_rate": Analysis(
        "Best learning rate",
        "For each model size, the minimum of a cubic in the logarithm of the learning rate, or of "
        "a parabola if there are fewer than five rates, through the losses at rates within a "
        "factor of 8 of the one with the lowest loss (at least the three nearest). The interval, "
        "in which the minimum lies with 80% probability, has every rate at which the slope of the "
        "curve may be zero (Fieller). It is from the scatter of the runs around the curves, pooled "
        "over the sizes. That the loss rises faster above the best rate than below moves the "
        "minimum of a parabola down, which its interval does not include.",
        {"learning_rate": BestRate},
    ),
    "isoflop": Analysis(
        "IsoFLOP curves",
        "For each compute budget, the minimum of a cubic of the loss in log N, or of a parabola "
        "if there are fewer than five sizes, through the sizes within a factor of 5 of the one "
        "with the lowest loss (at least the three nearest), and likewise in log D (as in Hoffmann "
        "et al. 2022, approach 2, with parabolas). The intervals of the minima, 80%, are from the "
        "scatter of the runs around the curves, pooled over the budgets (Fieller). Those of the "
        "exponents are propagated from the same scatter, and wider where the minima scatter by "
        "more than that around the power law. That the loss is not quite a parabola may move the "
        "minima of parabolas by a few per cent, which no interval includes. FLOPs are those of "
        "MFU.",
        {"isoflop": Budget, "isoflop_exponents": PowerLaw},
    ),
    "tokens_per_parameter": Analysis(
        "Loss against tokens per parameter",
        "The mean loss of each size at each length of its runs, with the standard error of the "
        "mean where there are several seeds. Parameters are all parameters.",
        {"tokens_per_parameter": LengthRow},
    ),
    "ablations": Analysis(
        "Ablations",
        "Mean loss of each change minus that of the base of its size: the cell without changes "
        "or, if all cells have some, the first of the grid. Above zero is worse. The standard "
        "error is from the spread between seeds, pooled over the cells of the size (over all "
        "sizes if it has no cell with several). A difference exceeds the noise if its 95% "
        "interval excludes zero; of changes without an effect, one in twenty does.",
        {"ablations": Difference},
    ),
}
"""Name -> analysis, in the order of the report; the names are those of `series.FINDERS`."""


@dataclass(frozen=True)
class Results:
    """The fits of a study's analyses, each a list with an item for each series."""

    learning_rate: list[list[RateCurve]] = field(default_factory=list)
    isoflop: list[IsoFlopFit] = field(default_factory=list)
    tokens_per_parameter: list[list[LengthRow]] = field(default_factory=list)
    ablations: list[list[Difference]] = field(default_factory=list)

    def tables(self) -> dict[str, list[Any]]:
        """Return name of a CSV without suffix -> rows."""
        return {
            "learning_rate": [curve.row for curves in self.learning_rate for curve in curves],
            "isoflop": [curve.row for fit in self.isoflop for curve in fit.curves],
            "isoflop_exponents": [law for fit in self.isoflop for law in fit.laws],
            "tokens_per_parameter": [row for rows in self.tokens_per_parameter for row in rows],
            "ablations": [row for rows in self.ablations for row in rows],
        }


def analyse(grid: Grid) -> Results:
    """Return the results of the analyses that a grid has, from the runs that were trained."""
    losses = {cell.name: loss for cell, loss in final_losses(grid)}
    fits: dict[str, Callable[..., Any]] = {
        "learning_rate": fit_learning_rates,
        "isoflop": fit_isoflops,
        "tokens_per_parameter": lengths_of,
        "ablations": compare_with_base,
    }
    return Results(
        **{
            name: [fit(series, losses) for series in FINDERS[name](grid)]
            for name, fit in fits.items()
        }
    )


def write_tables(name: str, results: Results, folder: Path) -> None:
    """Write the CSVs of an analysis, and one Markdown file for people."""
    analysis, rows = ANALYSES[name], results.tables()
    parts = [f"{analysis.title}: {_loss_kind(rows[name])}, nats per token.", analysis.explanation]
    for table, row_type in analysis.tables.items():
        write_csv(folder / f"{table}.csv", rows[table], row_type)
        parts.append(markdown_table(*readable(rows[table])))
    write_file(folder / f"{name}.md", "\n\n".join(parts) + "\n")


def read_tables(name: str, folder: Path) -> tuple[str, list[Readable]]:
    """Return the loss of an analysis, and its tables for people. Raises ConfigError."""
    tables, what = [], ""
    for table, row_type in ANALYSES[name].tables.items():
        path = folder / f"{table}.csv"
        rows = read_as(path, row_type, "a table of this analysis", "analyses")
        what = what or _loss_kind(rows)
        tables.append(readable(rows))
    return what, tables


def _loss_kind(rows: Sequence[Any]) -> str:
    return " or ".join(dict.fromkeys(row.loss_kind for row in rows if hasattr(row, "loss_kind")))


def readable(rows: Sequence[Any]) -> Readable:
    """Return a table without empty columns, and without variants if there is only `base`."""
    columns = []
    for column in zip(*(row.readable() for row in rows), strict=True):
        (heading, _), texts = column[0], [text for _, text in column]
        if set(texts) - ({"", "base"} if heading == "Variant" else {""}):
            columns.append((heading, *texts))
    headings, *cells = zip(*columns, strict=True) if columns else [()]
    return list(headings), [list(row) for row in cells]
