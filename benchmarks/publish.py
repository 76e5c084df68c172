"""Run a study in parts, and copy its tables and plots to results/published/<name> when it is done.

    python benchmarks/publish.py --study config/studies/h200.yaml --part-s 480

A part that is over asks the run under way to stop; it saves, and the same command goes on from
there.
Exit code 0: the study is finished and copied; 75: the same command goes on; else Snakemake's.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from study.config import Study  # noqa: E402
from study.grid import Grid  # noqa: E402
from study.load import load_study_file  # noqa: E402
from study.measure.logs import read_runs  # noqa: E402
from trainer.problems import ConfigError  # noqa: E402
from trainer.records import RunSummary  # noqa: E402

TABLES = (
    "study.yaml",
    "throughput.csv",
    "throughput.md",
    "time_estimates.csv",
    "time_estimates.md",
)
GO_ON = 75
"""Exit code of a part after which there is more to do (EX_TEMPFAIL)."""

POLL_S = 0.2
SAVE_S = 90
"""Seconds that a run has to save, after which its processes are killed."""


def main() -> int:
    """Run a part; return the exit code."""
    options = parse_arguments()
    try:
        study = load_study_file(options.study)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    code = run_part(options)
    if code:
        return code
    output = options.output or ROOT / "results/published" / study.study
    publish(study, output, options.study)
    print(f"{output}: the study's tables, plots and VERSIONS")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--study", required=True, help="the study's file")
    add("--part-s", type=float, default=480, help="seconds until a run is asked to stop")
    add("--output", type=Path, help="default: results/published/<the study's name>")
    add("--partial", action="store_true", help="train nothing: the tables of the runs that exist")
    return parser.parse_args()


def run_part(options: argparse.Namespace) -> int:
    """Run the study until it is finished, the part is over, or this process is asked to stop."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", options.study]
    # A run that has saved and left is not to be tried again in this part. A part that was killed
    # leaves Snakemake's lock behind; the trainer has a lock of its own on each run's folder.
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
    print(f"{options.study}: not finished; the same command goes on", file=sys.stderr)
    return GO_ON


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask Snakemake and the run under way to stop, and wait until the run has saved."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(SAVE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def publish(study: Study, output: Path, name: str) -> None:
    """Copy what is committed: tables, plots, and what they were measured with."""
    source = Path(study.folder)
    output.mkdir(parents=True, exist_ok=True)
    for path in [*(source / table for table in TABLES), *sorted(source.glob("figures/*.svg"))]:
        shutil.copyfile(path, output / path.name)
    grid = Grid(load_study_file(str(source / "study.yaml")))
    summaries = [run.summary for _, run in read_runs(grid)]
    (output / "VERSIONS").write_text(versions(summaries, name))


def versions(runs: list[RunSummary], name: str) -> str:
    """Return what the runs say of themselves: one line for each value that some of them have."""
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
            lines.append(f"{key}: {value or 'not known'}{some}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
