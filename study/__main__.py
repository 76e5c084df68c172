"""The study's commands, `python -m study COMMAND ...`: each is a stage that writes its files."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from study.command_line import Command, Option, build_parser, count, not_negative, positive
from study.config import Study
from study.grid import Grid
from study.load import load_grid_file, load_study_file
from trainer.environment import describe
from trainer.problems import ConfigError

# Each command has its own imports, so that `plan` does not wait for matplotlib.


def throughput(options: argparse.Namespace) -> None:
    """Write the throughput table, as CSV and Markdown."""
    from study.measure.summaries import find_failures
    from study.measure.throughput import throughput_rows

    grid = _grid(options)
    left_out: dict[str, str] = {}
    rows = throughput_rows(grid, left_out)
    # It loads pandas, when a long run's records are no longer in memory.
    from study.measure.throughput_table import write_table

    write_table(rows, options.output, find_failures(grid), left_out)


def estimate(options: argparse.Namespace) -> None:
    """Write the time-estimate table as CSV and Markdown, with its cross-validation and backtest."""
    from study.estimate.accuracy import Accuracy
    from study.estimate.estimate import Estimate, estimate_table
    from study.estimate.time_table import to_markdown
    from study.files import write_csv_and_markdown
    from study.measure.evidence import known_measurements

    grid, output = _grid(options), options.output
    measurements = known_measurements(grid, options.throughput)
    estimates = estimate_table(grid, measurements)
    accuracy = Accuracy.of(grid.study, measurements)
    write_csv_and_markdown(output, estimates, Estimate, to_markdown(estimates))
    accuracy.write(output)


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
    from study.measure.run_files import each_run
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
    accuracy = None if options.estimates is None else read_accuracy(options.estimates)
    over_gpus(grid, table, options.output_dir)
    plot_tables(grid, table, options.output_dir)
    if accuracy is not None:
        plot_estimates(accuracy, options.output_dir)


def scaling_law(options: argparse.Namespace) -> None:
    """Fit a scaling law to a study's losses, or to those in a CSV; write its tables and figure."""
    from study.files import write_csv_and_markdown
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
        settings: list[str] = []
    elif options.study is not None:
        runs, what, settings = study_losses(_grid(options))
    else:
        raise ConfigError("command line", ["expected --study FILE or --losses FILE"])
    fit = fit_runs(str(options.losses or options.study), runs, what, settings)
    write_csv_and_markdown(options.output, fit.coefficients, Coefficient, to_markdown(fit))
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
        text = f"{path} does not exist yet.\n"
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
        print(f"{title}\n\n{text}")
    for path in sorted(folder.glob("figures/*.png")):
        print(path)
    if (folder / "report.html").exists():
        print(f"open {folder / 'report.html'}")


def watch(options: argparse.Namespace) -> None:
    """Show a running study: each cell's state, step and speed, and when the study is done."""
    from study.show.watch import Watch
    from study.show.watch_text import follow

    with contextlib.suppress(KeyboardInterrupt):
        follow(Watch(_grid(options)), sys.stdout, options.every, options.once)


def compare(options: argparse.Namespace) -> None:
    """Compare studies, or the variants of one: speed, memory and loss, and the noise of each."""
    from study.files import write_csv_and_markdown
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
    text = to_markdown(base, others, found, options.by)
    print(text, end="")
    if options.output is not None:
        write_csv_and_markdown(options.output, found, comparison.Difference, text)
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


FLAG = {"action": "store_true"}

STUDY = Option("--study", "study file (YAML)")
OUTPUT = Option("--output", "file to write")
OUTPUT_FOLDER = Option("--output", "folder to write to")
OUTPUT_DIR = Option("--output-dir", "folder for the figures, or for the tables of the analyses")
FIGURES = Option("--figures", "folder of the figures")
THROUGHPUT = Option("--throughput", "throughput.csv")
ESTIMATES = Option(
    "--estimates", "time_estimates.csv, beside the tables that `estimate` writes with it"
)
CHECK = Option("--check", "write nothing; exit with 1 if out of date", FLAG)

COMMANDS = {
    "document": Command(
        document,
        [STUDY, ESTIMATES],
        [
            Option("--file", "Markdown file with the markers; default: the study's `document`"),
            CHECK,
        ],
    ),
    "plan": Command(plan, [STUDY]),
    "throughput": Command(throughput, [STUDY, OUTPUT]),
    "estimate": Command(estimate, [STUDY, OUTPUT], [THROUGHPUT]),
    "place": Command(
        place, [STUDY], [Option("--again", "also for cells with one that have not begun", FLAG)]
    ),
    "plot-losses": Command(plot_losses, [STUDY, OUTPUT_DIR]),
    "plot-scaling": Command(plot_scaling, [STUDY, THROUGHPUT, OUTPUT_DIR], [ESTIMATES]),
    "scaling-law": Command(
        scaling_law,
        [FIGURES, OUTPUT],
        [
            STUDY,
            Option("--losses", "CSV with the columns params, loss, and tokens or training_flop"),
            Option(
                "--drop-highest",
                "number of rows of --losses to leave out, those with the highest loss",
                {"type": count, "default": 0, "metavar": "N"},
            ),
        ],
    ),
    "analyses": Command(analyses, [STUDY, FIGURES, OUTPUT_DIR]),
    "report": Command(
        report,
        [STUDY, THROUGHPUT, ESTIMATES, FIGURES, OUTPUT],
        [
            Option(
                "--analyses",
                "folder of the tables of the analyses; default: that of throughput.csv",
            )
        ],
    ),
    "show": Command(show, [STUDY]),
    "watch": Command(
        watch,
        [STUDY],
        [
            Option(
                "--every",
                "seconds between two looks; default: 5",
                {"type": positive, "default": 5.0, "metavar": "SECONDS"},
            ),
            Option("--once", "look once", FLAG),
        ],
    ),
    "compare": Command(
        compare,
        [
            Option(
                "studies",
                "a study file, its results folder or a throughput.csv; the first is the base",
                {"nargs": "+", "type": Path, "metavar": "STUDY"},
            )
        ],
        [
            Option(
                "--by",
                "compare the cells of one study by this",
                {"choices": ("variant", "trainer", "cluster", "model", "gpus")},
            ),
            Option(
                "--base",
                "the value of --by to compare with; default: the first",
                {"metavar": "NAME"},
            ),
            Option(
                "--threshold",
                "exit with 1 if a cell is slower by more than this and the noise together",
                {"type": not_negative, "metavar": "PERCENT"},
            ),
            OUTPUT,
        ],
    ),
    "corpus": Command(
        corpus, [Option("--name", "name of the corpus", {"metavar": "NAME"}), OUTPUT_FOLDER]
    ),
    "schemas": Command(schemas, [OUTPUT_FOLDER], [CHECK]),
}


PARSER = build_parser("python -m study", "The stages of a study.", COMMANDS)

PIPE_CLOSED = 128 + signal.SIGPIPE
"""Exit code of a program whose output nobody reads any more, as in `| head`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code. User errors are printed without a traceback."""
    try:
        options = PARSER.parse_args(arguments)
        options.function(options)
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


def _study(options: argparse.Namespace) -> Study:
    return load_study_file(str(options.study))


def _grid(options: argparse.Namespace) -> Grid:
    def choose(grid: Grid) -> Grid:
        # Imported only here, as it loads numpy.
        from study.jobs import placement

        return placement.show(grid)

    return load_grid_file(str(options.study), choose)


if __name__ == "__main__":
    # More threads do not pay for matrices this small, and wait busily for each other. NumPy's BLAS
    # reads the variables when it is first imported, which no command has done yet.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    # A locale without the characters of tables is no reason to show none.
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="replace")
    sys.exit(main())
