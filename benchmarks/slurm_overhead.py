"""What Snakemake adds to a job on Slurm, measured on the trial cluster beside bare sbatch.

    make slurm-up
    python benchmarks/slurm_overhead.py

In turns, the same cell is submitted by `snakemake --executor slurm`, with the profile as it is, and
by sbatch with the same launch line. Printed, in seconds: from the call of sbatch to the first line
that the trainer prints, and from the job's end to the moment that Snakemake notices it (Slurm gives
ends in whole seconds). Median, least and most of `--repeats`.
"""

import argparse
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from study.grid import Grid
from study.jobs.launch import launch_line, request_line
from study.load import load_study
from tests.slurm.cluster.api import Cluster
from tests.slurm.studies import ROOT, SlurmStudy, partition, wait_until

FIRST_LINE = "parameters on"
"""In the first line that the trainer prints."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Snakemake's overhead for a job on Slurm")
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    cluster = Cluster()
    cluster.up()
    os.environ["SLURM_CONF"] = str(cluster.slurm_conf)
    with tempfile.TemporaryDirectory() as folder:
        study = SlurmStudy(cluster, Path(folder), "overhead")
        study.add("cell", partition("sphinx"))
        stamps = record_submissions(study)
        through_snakemake(study, stamps)  # tokenises, and warms the file cache
        rows = [(bare(study), *through_snakemake(study, stamps)) for _ in range(repeats)]
    names = ("sbatch to first line, bare", "sbatch to first line, Snakemake", "end to noticed")
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"{name:32} {statistics.median(values):5.1f} s  ({spread})")
    added = [row[1] - row[0] for row in rows]
    print(f"{'added by Snakemake':32} {statistics.median(added):5.1f} s")


def record_submissions(study: SlurmStudy) -> Path:
    """Put an sbatch on the PATH that notes when it is called, and calls the real one."""
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
    wait_until(lambda: log.exists() and FIRST_LINE in log.read_text(), "the trainer speaks", 180)
    return time.time()


def through_snakemake(study: SlurmStudy, stamps: Path) -> tuple[float, float]:
    folder = forget_run(study)
    stamps.unlink(missing_ok=True)
    study.log.unlink(missing_ok=True)
    study.file.write_text(yaml.safe_dump(study.study))
    command = [sys.executable, "-m", "snakemake", "--executor", "slurm"]
    command += ["--configfile", str(study.file), "--until", "train"]
    with study.log.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    spoke = time_of_first_line(folder / "train.log")
    to_first_line = spoke - float(stamps.read_text().split()[-1])
    assert process.wait() == 0, study.log.read_text()
    noticed = re.findall(r"\[(.*?)\]\nFinished jobid: \d+ \(Rule: train\)", study.log.read_text())
    end = study.cluster.sacct(study.jobs("cell")[-1], "End")["End"]
    at = datetime.datetime.strptime(noticed[-1], "%c")
    return to_first_line, (at - datetime.datetime.fromisoformat(end)).total_seconds()


def bare(study: SlurmStudy) -> float:
    """Submit what the rule would run, without Snakemake; the run's folder is another one."""
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
        command=f"bash -c '{command.replace(chr(39), chr(34))}'",
    )
    seconds = time_of_first_line(log) - called
    study.cluster.wait_for_state(job, "COMPLETED", timeout=60)
    return seconds


if __name__ == "__main__":
    main()
