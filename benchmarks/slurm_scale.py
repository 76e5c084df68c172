"""Snakemake with thousands of cells for Slurm: its memory, CPU time and questions to Slurm.

    python -m benchmarks.slurm_scale

Needs no cluster: sbatch accepts every job, and squeue lists all as waiting. Snakemake is started,
killed when its queue is full, and started again, as the profile has it but for the length of the
queue. Printed for both: what it took until the queue was full, what a minute of waiting takes, and
the peak memory of the process. CPU times are without those of Slurm's commands.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml

from benchmarks import ROOT, command_line, run
from study.command_line import whole
from tests.slurm.cluster.api import Cluster
from tests.slurm.studies import SlurmStudy, partition, wait_until

GPUS = (1, 2, 4, 8)
WAITS_S = 60
LONGEST_S = 1800

SBATCH = """case "$*" in *--test-only*) exit;; esac
while [ $# -gt 0 ]; do
  case $1 in --job-name) name=$2;; --comment) comment=$2;; esac; shift
done
id=$(($(wc -l < queue) + 1))
echo "$id|PENDING|0:00|30:00|Priority|$name|$comment" >> queue
echo $id"""
COMMANDS = {
    "sbatch": SBATCH,
    "squeue": "echo x >> questions; cat queue",
    **dict.fromkeys(("sacct", "sacctmgr", "scancel", "scontrol", "sinfo"), ":"),
}


class Cost(NamedTuple):
    """What a process has used since it was started."""

    seconds: float
    cpu_s: float
    questions: int
    """Calls of squeue."""


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--cells", type=whole, default=5000, help=f"a multiple of {len(GPUS)}")
    parser.add_argument("--jobs", type=whole, default=300, help="in the queue")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = SlurmStudy(Cluster(), Path(folder), "scale")
        study.study["clusters"]["sphinx"] = partition("sphinx", data={"local": True})
        seeds = list(range(options.cells // len(GPUS)))
        entry = {"cluster": "sphinx", "model": "one", "gpus": list(GPUS), "seed": seeds}
        study.study["grid"] = [entry]
        study.file.write_text(yaml.safe_dump(study.study))
        write_commands(study.folder)
        try:
            measure(study, "started", options.jobs, "(log: ")
            study.unlock()
            measure(study, "started again", options.jobs, "It is kept.")
        finally:
            study.kill()


def write_commands(folder: Path) -> None:
    """Put Slurm's commands, as shell scripts, on the PATH."""
    commands = folder / "commands"
    commands.mkdir()
    for name in ("queue", "questions"):
        (folder / name).touch()
    for name, script in COMMANDS.items():
        (commands / name).write_text(f"#!/bin/sh\ncd {folder}\n{script}\n")
        (commands / name).chmod(0o755)
    os.environ["PATH"] = f"{commands}:{os.environ['PATH']}"


def measure(study: SlurmStudy, what: str, jobs: int, mark: str) -> None:
    """Start Snakemake, wait until it has told of all jobs with `mark`, and kill it later."""
    asked = questions(study)
    began = time.monotonic()
    command = [sys.executable, "-m", "snakemake", "--executor", "slurm", "--jobs", str(jobs)]
    with study.log.open("wb") as log:
        study.process = process = subprocess.Popen(
            [*command, "--configfile", str(study.file)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def cost() -> Cost:
        seconds = time.monotonic() - began
        return Cost(seconds, cpu_seconds(process.pid), questions(study) - asked)

    def told() -> int:
        assert process.poll() is None, study.log.read_text()[-3000:]
        return study.log.read_text().count(mark)

    wait_until(lambda: told() > 0, "the first job", LONGEST_S)
    first = cost()
    wait_until(lambda: told() == jobs, "all jobs", LONGEST_S)
    full = cost()
    time.sleep(WAITS_S)
    later = cost()
    each_ms = (full.cpu_s - first.cpu_s) / (jobs - 1) * 1000
    print(f"{what}: first job after {first.seconds:.0f} s and {first.cpu_s:.0f} s of CPU time")
    print(f"  {jobs} jobs after {full.seconds:.0f} s, {each_ms:.1f} ms of CPU time each")
    print(f"  calls of squeue until then: {full.questions}")
    print(f"  a minute of waiting: {later.cpu_s - full.cpu_s:.1f} s of CPU time", end=", ")
    print(f"{later.questions - full.questions} calls of squeue")
    print(f"  peak memory of the process: {peak_mib(process.pid):.0f} MiB", flush=True)
    study.kill()


def questions(study: SlurmStudy) -> int:
    return (study.folder / "questions").read_text().count("\n")


def cpu_seconds(pid: int) -> float:
    """Return a process's CPU time without that of its children; proc(5), /proc/pid/stat."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    (peak_kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak_kib) / 1024


if __name__ == "__main__":
    run(main)
