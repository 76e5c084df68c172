"""The study's commands, `python -m study COMMAND ...`: each is a stage that writes its files."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from study.config import Study
from study.grid import Grid
from study.load import load_grid_file, load_study_file
from trainer.environment import describe
from trainer.problems import ConfigError

# Each command has its own imports, so that `plan` does not wait for matplotlib.


def throughput(options: argparse.Namespace) -> None:
    """Write the throughput table, as CSV and Markdown."""
    from study.measure.throughput import throughput_rows

    rows = throughput_rows(_grid(options))
    # It loads pandas, when a long run's records are no longer in memory.
    from study.measure.throughput_table import write_table

    write_table(rows, options.output)


def estimate(options: argparse.Namespace) -> None:
    """Write the time-estimate table as CSV and Markdown, with its cross-validation and backtest."""
    from study.estimate.accuracy import Accuracy
    from study.estimate.estimate import Estimate, estimate_table
    from study.estimate.time_table import to_markdown
    from study.files import to_csv, write_file
    from study.measure.evidence import known_measurements

    grid, output = _grid(options), options.output
    measurements = known_measurements(grid, options.throughput)
    estimates = estimate_table(grid, measurements)
    write_file(output, to_csv(estimates, Estimate))
    write_file(output.with_suffix(".md"), to_markdown(estimates))
    Accuracy.of(grid.study, measurements).write(output)


def document(options: argparse.Namespace) -> None:
    """Write the time table between the two markers in a Markdown file, or check it."""
    from study.estimate.time_table import read_estimates
    from study.show.document import check_document, update_document

    study = _study(options)
    path = options.file or (study.document and Path(study.document))
    if not path:
        raise ConfigError(
            str(options.study), ["document: not set; expected a Markdown file's path"]
        )
    estimates = read_estimates(options.estimates)
    if options.check:
        check_document(path, study.study, estimates)
        return
    changed = update_document(path, study.study, estimates)
    print(f"{path}: the time table {'is written' if changed else 'was up to date'}")


def plan(options: argparse.Namespace) -> None:
    """Show what is measured, what will run, how long it takes and what it requests."""
    from study.estimate.forecast import Forecast
    from study.show.plan import format_plan, plan_table

    grid = _grid(options)
    forecast = Forecast(grid)
    print(format_plan(grid, plan_table(grid, forecast), forecast), end="")


def place(options: argparse.Namespace) -> None:
    """Choose the clusters of cells whose block names several, and write the choice down."""
    from study.jobs.placement import record, record_again
    from study.show.plan import format_placements

    how = record_again if options.again else record
    grid = load_grid_file(str(options.study), how, again=options.again)
    told = format_placements(grid)
    print(told or f"{options.study}: no cell of the grid has several clusters\n", end="")


def plot_losses(options: argparse.Namespace) -> None:
    """Draw loss against steps, tokens, wall-clock time and FLOPs, and the time of runs by part."""
    from study.measure.logs import each_run
    from study.measure.time_by_part import time_by_part
    from study.show.curves import Curve
    from study.show.plot_losses import plot_loss_curves
    from study.show.plot_times import plot_times

    grid = _grid(options)
    curves, times = [], []
    for cell, run in each_run(grid):  # one by one: their records may not fit in memory
        curves.append(Curve.of(cell, run))
        times.append((cell, time_by_part(run)))
    plot_loss_curves(grid, curves, options.output_dir)
    plot_times(grid, times, options.output_dir)


def plot_scaling(options: argparse.Namespace) -> None:
    """Draw throughput and efficiency against GPU count, the variants beside their base, MFU, and
    with --estimates the predicted against the measured step times."""
    from study.estimate.accuracy import read_accuracy
    from study.measure.throughput_table import read_table
    from study.show.plot_estimates import plot_estimates
    from study.show.plot_scaling import plot_scaling as over_gpus
    from study.show.plot_tables import plot_tables

    grid, table = _grid(options), read_table(options.throughput)
    over_gpus(grid, table, options.output_dir)
    plot_tables(grid, table, options.output_dir)
    if options.estimates is not None:
        plot_estimates(read_accuracy(options.estimates), options.output_dir)


def scaling_law(options: argparse.Namespace) -> None:
    """Fit a scaling law to a study's losses, or to those in a CSV; write its tables and figure."""
    from study.files import to_csv, write_file
    from study.law.plot_scaling_law import plot_scaling_law
    from study.law.scaling_law_table import (
        Coefficient,
        fit_runs,
        read_losses,
        study_losses,
        to_markdown,
    )

    if options.losses is not None:
        runs, what = read_losses(options.losses, options.drop_highest), "loss"
        fit = fit_runs(str(options.losses), runs, what)
    elif options.study is not None:
        runs, what = study_losses(_grid(options))
        fit = fit_runs(str(options.study), runs, what)
    else:
        raise ConfigError("command line", ["expected --study FILE or --losses FILE"])
    write_file(options.output, to_csv(fit.coefficients, Coefficient))
    write_file(options.output.with_suffix(".md"), to_markdown(fit))
    plot_scaling_law(fit, options.figures)


def analyses(options: argparse.Namespace) -> None:
    """Write the tables and figures of the analyses that the grid has, such as IsoFLOP curves."""
    from study.analysis.catalogue import analyse, write_tables
    from study.analysis.series import find_analyses
    from study.show.plot_analyses import plot_analysis

    grid = _grid(options)
    found, results = find_analyses(grid), analyse(grid)
    for name in found:
        write_tables(name, results, options.output_dir)
        plot_analysis(name, results, options.figures)
    if not found:
        print("the grid has no sweep, budgets, lengths or ablations to analyse")


def report(options: argparse.Namespace) -> None:
    """Write the report, one HTML page."""
    from study.estimate.accuracy import read_accuracy
    from study.estimate.time_table import read_estimates
    from study.files import write_file
    from study.measure.throughput_table import read_table
    from study.show.report import render_report

    page = render_report(
        _grid(options),
        read_table(options.throughput),
        read_estimates(options.estimates),
        read_accuracy(options.estimates),
        options.figures,
        options.throughput.parent if options.analyses is None else options.analyses,
    )
    write_file(options.output, page)


def show(options: argparse.Namespace) -> None:
    """Print both tables, where the figures are, and the report to open."""
    folder = Path(_study(options).folder)
    for name, title in (("throughput", "Throughput"), ("time_estimates", "Time estimates")):
        path = folder / f"{name}.md"
        text = (
            path.read_text(encoding="utf-8") if path.exists() else f"{path} does not exist yet.\n"
        )
        print(f"{title}\n\n{text}")
    for path in sorted(folder.glob("figures/*.png")):
        print(path)
    if (folder / "report.html").exists():
        print(f"open {folder / 'report.html'}")


def watch(options: argparse.Namespace) -> None:
    """Show a running study: each cell's state, step and speed, and when the study is done."""
    from study.show.watch import Watch, follow

    with contextlib.suppress(KeyboardInterrupt):
        follow(Watch(_grid(options)), sys.stdout, options.every, options.once)


def compare(options: argparse.Namespace) -> None:
    """Compare studies, or the variants of one: speed, memory and loss, and the noise of each."""
    from study.files import to_csv, write_file
    from study.measure import comparison
    from study.show.compare import plot, to_markdown

    sides = [comparison.read_side(path) for path in dict.fromkeys(options.studies)]
    if len(sides) == 1 and options.by is None:
        raise ConfigError("command line", ["found one study; expected two or more, or --by"])
    if len(sides) > 1 and options.by is not None:
        raise ConfigError("command line", ["--by compares the cells of one study; found several"])
    if options.by is not None:
        sides = comparison.split(sides[0], options.by, options.base)
    base, *others = sides
    found = comparison.compare(base, others, options.by)
    print(to_markdown(base, others, found, options.by), end="")
    if options.output is not None:
        write_file(options.output, to_csv(found, comparison.Difference))
        write_file(options.output.with_suffix(".md"), to_markdown(base, others, found, options.by))
        plot(found, options.output.with_suffix(""))
    if options.threshold is not None:
        slower = comparison.slower_than(found, options.threshold)
        if slower:
            what = f"slower than {base.name} by more than {options.threshold:g}%"
            raise ConfigError(what, slower)


def corpus(options: argparse.Namespace) -> None:
    """Write a corpus: JSONL chunks and a held-out file."""
    from study.corpus import CORPUS_WRITERS
    from trainer.settings import suggest

    if options.name not in CORPUS_WRITERS:
        hint = suggest(options.name, list(CORPUS_WRITERS))
        raise ConfigError("command line", [f"--name: unknown corpus '{options.name}'; {hint}"])
    CORPUS_WRITERS[options.name](options.output)


def schemas(options: argparse.Namespace) -> None:
    """Write the JSON Schemas of the files under config/, or check that they are up to date."""
    from study.schemas import write_schemas

    write_schemas(options.output, check=options.check)


Command = Callable[[argparse.Namespace], None]

COMMANDS: dict[str, tuple[Command, Sequence[str]]] = {
    "document": (document, ("--study", "--estimates")),
    "plan": (plan, ("--study",)),
    "throughput": (throughput, ("--study", "--output")),
    "estimate": (estimate, ("--study", "--output")),
    "place": (place, ("--study",)),
    "plot-losses": (plot_losses, ("--study", "--output-dir")),
    "plot-scaling": (plot_scaling, ("--study", "--throughput", "--output-dir")),
    "scaling-law": (scaling_law, ("--figures", "--output")),
    "analyses": (analyses, ("--study", "--figures", "--output-dir")),
    "report": (report, ("--study", "--throughput", "--estimates", "--figures", "--output")),
    "show": (show, ("--study",)),
    "watch": (watch, ("--study",)),
    "compare": (compare, ("studies",)),
    "corpus": (corpus, ("--name", "--output")),
    "schemas": (schemas, ("--output",)),
}
"""Command -> its function and its required options."""

OPTIONAL = {
    "document": ("--file", "--check"),
    "estimate": ("--throughput",),
    "place": ("--again",),
    "plot-scaling": ("--estimates",),
    "report": ("--analyses",),
    "scaling-law": ("--study", "--losses", "--drop-highest"),
    "watch": ("--every", "--once"),
    "compare": ("--by", "--base", "--threshold", "--output"),
    "schemas": ("--check",),
}
"""Command -> its optional options."""

HELP = {
    "studies": "a study file, its results folder or a throughput.csv; the first is the base",
    "--every": "seconds between two looks; default: 5",
    "--once": "look once",
    "--check": "write nothing; exit with 1 if out of date",
    "--again": "also for cells with one that have not begun",
    "--by": "compare the cells of one study by variant, trainer, cluster, model or gpus",
    "--base": "the variant, trainer, cluster, model or gpus to compare with; default: the first",
    "--threshold": "exit with 1 if a cell is slower by more than this, beyond the noise",
    "--study": "study file (YAML)",
    "--throughput": "throughput.csv",
    "--estimates": "time_estimates.csv, beside the tables that `estimate` writes with it",
    "--analyses": "folder of the tables of the analyses; default: that of throughput.csv",
    "--figures": "folder of the figures",
    "--file": "Markdown file with the markers; default: the study's `document`",
    "--losses": "CSV with the columns params, loss, and tokens or training_flop",
    "--drop-highest": "number of rows of --losses to leave out, those with the highest loss",
    "--output": "file to write; for corpus and schemas, a folder",
    "--output-dir": "folder for the figures, or for the tables of the analyses",
    "--name": "name of the corpus",
}


KINDS: dict[str, dict[str, Any]] = {
    "--drop-highest": {"type": int, "default": 0, "metavar": "N"},
    "--every": {"type": float, "default": 5.0, "metavar": "SECONDS"},
    "--once": {"action": "store_true"},
    "--check": {"action": "store_true"},
    "--again": {"action": "store_true"},
    "--by": {"choices": ("variant", "trainer", "cluster", "model", "gpus")},
    "--base": {"metavar": "NAME"},
    "--threshold": {"type": float, "metavar": "PERCENT"},
}
"""Optional option that is no path -> what argparse needs to know."""


PIPE_CLOSED = 128 + signal.SIGPIPE
"""Exit code of a program whose output nobody reads any more, as in `| head`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code. User errors are printed without a traceback."""
    try:
        options = _parser().parse_args(arguments)
        options.command(options)
        sys.stdout.flush()
    except ConfigError as error:
        print(error, file=sys.stderr)
    except ModuleNotFoundError as error:
        print(describe([error.name or str(error)]), file=sys.stderr)
    except BrokenPipeError:
        # Otherwise the interpreter tries to write the rest when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        print(f"{error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
    else:
        return 0
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m study", description="The stages of a study.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (command, names) in COMMANDS.items():
        sub = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        for option in names:
            if option == "studies":
                sub.add_argument(option, nargs="+", type=Path, metavar="STUDY", help=HELP[option])
            else:
                kind = str if option == "--name" else Path
                sub.add_argument(option, required=True, type=kind, help=HELP[option])
        for option in OPTIONAL.get(name, ()):
            sub.add_argument(option, help=HELP[option], **KINDS.get(option, {"type": Path}))
        sub.set_defaults(command=command)
    return parser


def _study(options: argparse.Namespace) -> Study:
    return load_study_file(str(options.study))


def _grid(options: argparse.Namespace) -> Grid:
    def place(grid: Grid) -> Grid:
        from study.jobs.placement import show

        return show(grid)

    return load_grid_file(str(options.study), place)


if __name__ == "__main__":
    # More threads do not pay for matrices this small, and wait busily for each other. NumPy's BLAS
    # reads the variables when it is first imported, which no command has done yet.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    sys.exit(main())
