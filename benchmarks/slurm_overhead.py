"""Snakemake's overhead for a Slurm job on the trial cluster, compared with bare sbatch.

    make slurm-up
    python -m benchmarks.slurm_overhead

The same cell is submitted alternately by `snakemake --executor slurm`, with the repository's
profile, and by sbatch with the same launch line. Printed, in seconds: from the call of sbatch to
the trainer's first line of output, from the start of Snakemake to it, and from the end of the job
until Snakemake notices it (Slurm records ends in whole seconds). Median, minimum and maximum of
`--repeats`.
"""

import datetime
import os
import re
import shutil
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks import ROOT, command_line
from benchmarks.timing import range_text
from study.grid import Grid
from study.jobs.launch import launch_line, request_line
from study.load import load_study
from tests.slurm.cluster.api import Cluster
from tests.slurm.studies import SlurmStudy, partition, wait_until

FIRST_LINE = "parameters on"
"""Part of the first line that the trainer prints."""


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
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
    names = ("sbatch to first line, bare", "sbatch to first line, Snakemake")
    names += ("snakemake to first line", "end to noticed")
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        print(f"{name:32}", range_text(values, ".1f", " s"))
    added = [row[1] - row[0] for row in rows]
    print(f"{'added by Snakemake':32} {statistics.median(added):5.1f} s")


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


def time_of_first_line(log: Path) -> float:
    """Wait for the trainer's first line; return the time."""
    wait_until(
        lambda: log.exists() and FIRST_LINE in log.read_text(), "the trainer's first line", 180
    )
    return time.time()


def through_snakemake(study: SlurmStudy, stamps: Path) -> tuple[float, float, float]:
    folder = forget_run(study)
    stamps.unlink(missing_ok=True)
    study.log.unlink(missing_ok=True)
    study.file.write_text(yaml.safe_dump(study.study))
    command = [sys.executable, "-m", "snakemake", "--executor", "slurm"]
    command += ["--configfile", str(study.file), "--until", "train"]
    started = time.time()
    with study.log.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    printed = time_of_first_line(folder / "train.log")
    to_first_line = printed - float(stamps.read_text().split()[-1])
    assert process.wait() == 0, study.log.read_text()
    noticed = re.findall(r"\[(.*?)\]\nFinished jobid: \d+ \(Rule: train\)", study.log.read_text())
    end = study.cluster.sacct(study.jobs("cell")[-1], "End")["End"]
    at = datetime.datetime.strptime(noticed[-1], "%c")
    return (
        to_first_line,
        printed - started,
        (at - datetime.datetime.fromisoformat(end)).total_seconds(),
    )


def bare(study: SlurmStudy) -> float:
    """Submit the rule's command without Snakemake, with a run folder of its own."""
    (cell,) = Grid(load_study(study.study))
    config = study.folder / "bare.yaml"
    folder = study.folder / "bare"
    shutil.rmtree(folder, ignore_errors=True)
    config.write_text(cell.run.model_copy(update={"dump_dir": str(folder)}).to_yaml())
    log = study.folder / "bare.log"
    log.unlink(missing_ok=True)
    command = f"{launch_line(cell.cluster_config, cell.gpus)} config={config}"
    called = time.time()
    job = study.cluster.sbatch(
        *request_line(cell.cluster_config, cell.gpus).split(),
        *(f"--chdir={ROOT}", f"--output={log}"),
        command=command,
    )
    seconds = time_of_first_line(log) - called
    study.cluster.wait_for_state(job, "COMPLETED", timeout=60)
    return seconds


if __name__ == "__main__":
    main()
