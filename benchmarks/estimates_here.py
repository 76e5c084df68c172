"""Backtest of the estimates on this machine: predict runs, then execute them.

    python -m benchmarks.estimates_here [--steps 60]

Measures a grid of models on 1 and 2 processes through Snakemake, leaving out one model size and
some process counts; predicts those, runs them, and prints prediction, interval and measurement.
A process is one CPU core; nothing else should run on the machine meanwhile.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks import ROOT, command_line, run
from study.command_line import whole

KNOWN = [
    {"cluster": "local", "model": ["nano", "micro", "milli"], "gpus": 1},
    {"cluster": "local", "model": ["nano", "milli"], "gpus": 2},
]
LEFT_OUT = [
    {"cluster": "local", "model": "mini", "gpus": [1, 2]},  # a size
    {"cluster": "local", "model": "micro", "gpus": 2},  # a process count
]


def make_study(folder: Path, steps: int) -> dict[str, Any]:
    """Return the study's settings: the default study's, without checkpoints and evaluation."""
    study = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    run = {**study["run"], "steps": steps, "checkpoint": {}, "eval": None}
    return {**study, "study": "estimates", "results_dir": str(folder), "run": run}


def run_grid(study: dict[str, Any], grid: list[dict[str, Any]], folder: Path) -> None:
    """Run the missing runs of a grid."""
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**study, "grid": grid}))
    target = f"{folder}/estimates/backtest.csv"
    command = [sys.executable, "-m", "snakemake", "--cores", "all", "--quiet", "all"]
    subprocess.run([*command, "--configfile", str(file), "--", target], check=True, cwd=ROOT)


def main() -> None:
    """Print a line for each predicted run."""
    parser = command_line(__doc__)
    parser.add_argument("--steps", type=whole, default=60, help="steps of each run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = make_study(folder, options.steps)
        run_grid(study, KNOWN, folder)
        run_grid(study, [*KNOWN, *LEFT_OUT], folder)
        with (folder / "estimates" / "backtest.csv").open() as file:
            rows = list(csv.DictReader(file))
    headings = f"{'ms a step':>10}{'interval':>18}{'measured':>10}{'error':>8}"
    print(f"{'predicted before the run':38}{headings}")
    for row in rows:
        low, high = float(row["step_ms_low"]), float(row["step_ms_high"])
        inside = "" if row["inside"] == "True" else "  outside"
        print(
            f"{row['cell']:38}{float(row['step_ms']):10.1f}{f'{low:.1f} to {high:.1f}':>18}"
            f"{float(row['step_ms_measured']):10.1f}{float(row['error']):+8.1%}{inside}"
        )
    errors = [abs(float(row["error"])) for row in rows]
    held = sum(row["inside"] == "True" for row in rows)
    print(f"median error {median(errors):.1%}; {held} of {len(rows)} inside their 80% interval")


if __name__ == "__main__":
    run(main)
