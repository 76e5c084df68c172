"""Run a study in time slices; when it is done, publish its tables, plots and report.

    python -m benchmarks.publish --study config/studies/h200.yaml --part-s 480

What is published is copied to results/published. At the end of a slice the current run is asked to
stop and saves; the same command resumes it.
Exit code 0: the study is finished and copied; 75: run the same command again; else Snakemake's.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks import ROOT, command_line, run
from study.config import Study
from study.grid import Grid
from study.load import load_study_file
from study.measure.run_files import each_run
from trainer.records import RunSummary

COPIED = (
    "study.yaml",
    "report.html",
    "throughput.csv",
    "throughput.md",
    "time_estimates.csv",
    "time_estimates.md",
)
GO_ON = 75
"""Exit code of a slice that leaves work to do (EX_TEMPFAIL)."""

POLL_S = 0.2
SAVE_S = 90
"""Seconds that a run has to save before its processes are killed."""


def main() -> int:
    """Run a slice; return the exit code."""
    options = parse_arguments()
    study = load_study_file(options.study)
    code = run_part(options)
    if code:
        return code
    output = options.output or ROOT / "results/published" / study.study
    publish(study, output, options.study)
    print(f"{output}: the study's tables, plots, report and VERSIONS")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    add = parser.add_argument
    add("--study", required=True, help="the study's file")
    add("--part-s", type=float, default=480, help="seconds until the current run is asked to stop")
    add("--output", type=Path, help="default: results/published/<the study's name>")
    add("--partial", action="store_true", help="train nothing: publish the tables of existing runs")
    return parser.parse_args()


def run_part(options: argparse.Namespace) -> int:
    """Run the study until it is finished, the slice is over, or this process is asked to stop."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", options.study]
    # No retries: a run that has saved and stopped waits for the next slice. No lock: a killed slice
    # would leave Snakemake's behind, and the trainer locks each run's folder itself.
    command += ["--retries", "0", "--nolock"]
    command += ["--config", "partial=true"] if options.partial else []
    stops: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stops.append(number))
    end = time.monotonic() + options.part_s
    with subprocess.Popen(command, start_new_session=True) as process:
        while process.poll() is None and not stops and time.monotonic() < end:
            time.sleep(POLL_S)
        if process.poll() is not None:
            return process.returncode
        stop(process)
    print(f"{options.study}: not finished; run the same command again", file=sys.stderr)
    return GO_ON


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask Snakemake and the current run to stop, and wait until the run has saved."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(SAVE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def publish(study: Study, output: Path, name: str) -> None:
    """Copy tables, plots and report, and write down the versions that they were measured with."""
    source = Path(study.folder)
    output.mkdir(parents=True, exist_ok=True)
    figures = [path for path in source.glob("figures/*.svg") if "_column" not in path.stem]
    for path in [*(source / file for file in COPIED), *sorted(figures)]:
        shutil.copyfile(path, output / path.name)
    grid = Grid(load_study_file(str(source / "study.yaml")))
    summaries = [run.summary for _, run in each_run(grid)]
    (output / "VERSIONS").write_text(versions(summaries, name))


def versions(runs: list[RunSummary], name: str) -> str:
    """Return the versions recorded by the runs, one line for each distinct value."""
    facts = {
        "commit": [run.commit for run in runs],
        "trainer": [run.trainer_version for run in runs],
        "python": [run.versions.python for run in runs],
        "torch": [run.versions.torch for run in runs],
        "cuda": [run.versions.cuda for run in runs],
        "gpu": [run.gpu_name for run in runs],
        "started": [run.attempts[0].start[:10] for run in runs],
    }
    lines = [f"study: {name}, {len(runs)} runs"]
    for key, values in facts.items():
        for value, count in Counter(values).items():
            some = "" if count == len(runs) else f" ({count} runs)"
            lines.append(f"{key}: {value or 'unknown'}{some}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
