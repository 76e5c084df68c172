"""What Snakemake adds to a Slurm job on the trial cluster, compared with bare sbatch.

    make slurm-up
    python -m benchmarks.slurm_overhead

The same cell is submitted alternately by sbatch and by `snakemake --executor slurm`, with the
repository's profile and the same launch line; its data are there. Printed, in seconds: from the
call of sbatch to the first training step, from the start of Snakemake to it, and from the end of
the run until Snakemake notices it (which it tells in whole seconds) and until all tables and the
report are made. Median, minimum and maximum of `--repeats`.
"""

import datetime
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks import ROOT, command_line, run
from benchmarks.timing import range_text
from study.command_line import whole
from study.grid import Grid
from study.jobs.launch import launch_line, request_line
from study.load import load_study
from tests.slurm.cluster.api import Cluster
from tests.slurm.studies import SlurmStudy, partition, wait_until

PRINTED = (
    "sbatch to first step, bare",
    "sbatch to first step, Snakemake",
    "snakemake to first step",
    "end to noticed",
    "end to all tables",
)
MADE = ("throughput.csv", "throughput.md", "time_estimates.csv", "time_estimates.md", "report.html")


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=whole, default=5)
    repeats = parser.parse_args().repeats
    cluster = Cluster()
    cluster.up()
    os.environ["SLURM_CONF"] = str(cluster.slurm_conf)
    with tempfile.TemporaryDirectory() as folder:
        study = SlurmStudy(cluster, Path(folder), "overhead")
        study.add("cell", partition("sphinx"))
        stamps = record_submissions(study)
        through_snakemake(study, stamps)  # tokenizes, and warms the file cache
        rows = [(bare(study), *through_snakemake(study, stamps)) for _ in range(repeats)]
    for name, values in zip(PRINTED, zip(*rows, strict=True), strict=True):
        print(f"{name:32}", range_text(values, ".1f", " s"))
    beyond = [row[2] - row[0] for row in rows]
    print(f"{'snakemake beyond bare sbatch':32}", range_text(beyond, ".1f", " s"))


def record_submissions(study: SlurmStudy) -> Path:
    """Put an sbatch on the PATH that records the time and calls the real one."""
    stamps = study.folder / "stamps"
    recorder = study.folder / "commands" / "sbatch"
    recorder.parent.mkdir()
    recorder.write_text(f'#!/bin/sh\ndate +%s.%N >> {stamps}\nexec {shutil.which("sbatch")} "$@"\n')
    recorder.chmod(recorder.stat().st_mode | stat.S_IXUSR)
    os.environ["PATH"] = f"{recorder.parent}:{os.environ['PATH']}"
    return stamps


def forget_run(study: SlurmStudy) -> Path:
    folder = study.run_folder("cell")
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def time_of_first_step(folder: Path) -> float:
    """Wait for a run's first record; return the time."""
    records = folder / "metrics.jsonl"
    wait_until(lambda: records.exists() and records.read_text(), "the first step", 180)
    return time.time()


def through_snakemake(study: SlurmStudy, stamps: Path) -> tuple[float, float, float, float]:
    folder = forget_run(study)
    stamps.unlink(missing_ok=True)
    study.log.unlink(missing_ok=True)
    study.file.write_text(yaml.safe_dump(study.study))
    command = [sys.executable, "-m", "snakemake", "--executor", "slurm"]
    started = time.time()
    with study.log.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--configfile", str(study.file)], cwd=ROOT, stdout=log, stderr=log
        )
    first_step = time_of_first_step(folder)
    submitted = float(stamps.read_text().split()[-1])
    assert process.wait() == 0, study.log.read_text()
    finished = re.compile(r"\[(.*?)\]\nFinished jobid: \d+ \(Rule: train\)")
    (noticed,) = finished.findall(study.log.read_text())
    end = datetime.datetime.fromisoformat(study.summary("cell")["attempts"][-1]["end"]).timestamp()
    made = max((study.results / name).stat().st_mtime for name in MADE)
    return (
        first_step - submitted,
        first_step - started,
        datetime.datetime.strptime(noticed, "%c").timestamp() - end,
        made - end,
    )


def bare(study: SlurmStudy) -> float:
    """Submit the rule's command without Snakemake, with a run folder of its own."""
    (cell,) = Grid(load_study(study.study))
    config = study.folder / "bare.yaml"
    folder = study.folder / "bare"
    shutil.rmtree(folder, ignore_errors=True)
    config.write_text(cell.run.model_copy(update={"dump_dir": str(folder)}).to_yaml())
    command = f"{launch_line(cell.cluster_config, cell.gpus)} config={config}"
    called = time.time()
    job = study.cluster.sbatch(
        *request_line(cell.cluster_config, cell.gpus).split(),
        *(f"--chdir={ROOT}", f"--output={study.folder / 'bare.log'}"),
        command=command,
    )
    seconds = time_of_first_step(folder) - called
    study.cluster.wait_for_state(job, "COMPLETED", timeout=60)
    return seconds


if __name__ == "__main__":
    run(main)
