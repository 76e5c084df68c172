"""A study under kills of everything, on the trial cluster: python -m tests.slurm.soak [--runs 60]

Runs longer than the partition's time limit, under a limit of submitted jobs, while jobs, slurmds,
slurmctld and Snakemake are killed at random; a loop starts Snakemake again. At the end every cell
must have been measured once, with the losses of runs that nothing happened to. Prints a log of the
kills and a summary; exit code 1 if anything is missing or differs. Takes half an hour.
"""

import argparse
import contextlib
import csv
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.slurm.cluster.api import Cluster, CommandError
from tests.slurm.studies import SlurmStudy, partition

SEEDS = 6
LIMIT_MIN = 1
STEP_S = 2.75
"""Seconds of a step: the 24 steps of a run take longer than the time limit."""

WARN_S = 10
"""Seconds before the limit at which half of the runs are told; Slurm looks for it every 30 s, so it
is up to 40 s. The others are told at the limit, which Slurm exceeds by up to 30 s."""

CALM_S = 900
"""The most that the undisturbed runs and the table take."""

MAX_SUBMIT = 8
MAX_RUNNING = 4
"""More at a time need longer to start, on two cores, than their time limit."""

CALM = "undisturbed"
NODES = ("sphinx1", "sphinx2", "sphinx3")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60, help=f"a multiple of {SEEDS}")
    parser.add_argument("--seed", type=int, default=1, help="of the kills")
    parser.add_argument("--every", type=float, default=12.0, help="seconds between two kills")
    options = parser.parse_args()
    cluster = Cluster()
    cluster.up()
    os.environ["SLURM_CONF"] = str(cluster.slurm_conf)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        study = make_study(cluster, Path(folder), options.runs)
        make(study, *targets(study, CALM))
        limit(cluster, MAX_SUBMIT, MAX_RUNNING, f"{LIMIT_MIN}")
        try:
            disturb(study, random.Random(options.seed), options.every)
        finally:
            study.kill()
            cluster.run("scancel", "--user=root")
            limit(cluster, -1, -1, "21-00:00:00")
            cluster.restore_nodes()
        return find_wrong(study)


def make_study(cluster: Cluster, folder: Path, runs: int) -> SlurmStudy:
    study = SlurmStudy(cluster, folder, "soak")
    seeds = list(range(42, 42 + SEEDS))
    request = {"runtime_min": LIMIT_MIN, "max_runtime_min": LIMIT_MIN, "mem_gib": 2}
    study.add(CALM, partition("sphinx", data={"local": True}))
    study.study["grid"][-1]["seed"] = seeds
    for number in range(runs // SEEDS):
        told = {"warn_s": WARN_S if number % 2 else 0, "data": {"local": True}}
        place = partition("sphinx", "slow", folder, **request, **told)
        place["setup"][0] += f" FAULT_STEP=1 FAULT_SECONDS={STEP_S}"
        study.add(f"c{number}", place)
        study.study["grid"][-1]["seed"] = seeds
    return study


def make(study: SlurmStudy, *files: str) -> None:
    """Have Snakemake make files that nothing prevents."""
    output = study.run(*files, timeout=CALM_S)
    if study.returncode:
        raise SystemExit(output[-3000:])


def targets(study: SlurmStudy, prefix: str) -> list[str]:
    runs = study.results / "runs"
    return [
        str(flag) for flag in study.flags() if flag.relative_to(runs).parts[0].startswith(prefix)
    ]


def limit(cluster: Cluster, submitted: int, running: int, max_time: str) -> None:
    settings = (f"MaxSubmitJobs={submitted}", f"MaxJobs={running}")
    cluster.run("sacctmgr", "--immediate", "modify", "user", "root", "set", *settings)
    cluster.run("scontrol", "update", "PartitionName=sphinx", f"MaxTime={max_time}")


def disturb(study: SlurmStudy, chance: random.Random, every: float) -> None:
    """Start Snakemake until all runs are complete, and kill something every few seconds."""
    flags = targets(study, "c")
    kills: Counter[str] = Counter()
    began, starts = time.monotonic(), 0
    while not all(Path(flag).exists() for flag in flags):
        study.unlock()
        process = study.start(*flags)
        starts += 1
        while process.poll() is None:
            time.sleep(chance.uniform(0.5, 1.5) * every)
            kind = chance.choices(list(KILLS), WEIGHTS)[0]
            with contextlib.suppress(CommandError, TimeoutError, ProcessLookupError):
                KILLS[kind](study, chance)
                kills[kind] += 1
                done = sum(Path(flag).exists() for flag in flags)
                now = time.monotonic() - began
                print(f"{now:6.0f} s  {kind}; {done} runs are complete", flush=True)
    text = study.log.read_text()
    print(f"\n{len(flags)} runs in {(time.monotonic() - began) / 60:.1f} min")
    print(", ".join(f"{count} x {kind}" for kind, count in kills.items()))
    print(
        f"Snakemake started {starts} times; {text.count('continues as Slurm job')} continued, "
        f"{text.count('Trying to restart')} retried, {text.count('It is kept.')} kept"
    )


def cancel_job(study: SlurmStudy, chance: random.Random) -> None:
    shown = study.cluster.run("squeue", "--noheader", "--states=RUNNING", "--format=%i").split()
    if victim := choose(shown, chance):
        study.cluster.run("scancel", victim)


def kill_run(study: SlurmStudy, chance: random.Random) -> None:
    """Kill a process of a run as the kernel does for lack of memory: without a word."""
    processes = study.cluster.run("ps", "-e", "-o", "pid=,args=").splitlines()
    wanted = f"-m trainer config={study.results}"
    found = [line.split()[0] for line in processes if wanted in line]
    if victim := choose(found, chance):
        os.kill(int(victim), signal.SIGKILL)


def choose(found: list[str], chance: random.Random) -> str | None:
    """Choose one, or none as often as fewer run than could: the last run is to end some time."""
    return chance.choice(found) if chance.randrange(MAX_RUNNING) < len(found) else None


def restart_slurmd(study: SlurmStudy, chance: random.Random) -> None:
    node = chance.choice(NODES)
    study.cluster.stop_slurmd(node)
    time.sleep(2)
    study.cluster.start_slurmd(node)


def restart_slurmctld(study: SlurmStudy, chance: random.Random) -> None:
    study.cluster.stop_service("slurmctld")
    time.sleep(chance.uniform(1, 15))
    study.cluster.start_service("slurmctld")
    study.cluster.restore_nodes()


def kill_snakemake(study: SlurmStudy, chance: random.Random) -> None:
    assert study.process is not None
    number = chance.choice([signal.SIGKILL, signal.SIGTERM])
    os.killpg(study.process.pid, number)


KILLS = {
    "run killed": kill_run,
    "job cancelled": cancel_job,
    "slurmd restarted": restart_slurmd,
    "slurmctld restarted": restart_slurmctld,
    "Snakemake killed": kill_snakemake,
}
WEIGHTS = (4, 2, 2, 1, 1)


def find_wrong(study: SlurmStudy) -> int:
    """Print what differs from the undisturbed runs; return whether anything does."""
    wrong, attempts = [], 0
    steps = study.study["run"]["steps"]
    folders = [Path(flag).parent for flag in targets(study, "c")]
    for folder in folders:
        losses, calm = study.losses_of(folder), study.losses_of(calm_folder(study, folder))
        attempts += len(study.summary_of(folder)["attempts"])
        if losses != calm or losses[-1][0] != steps:
            wrong.append(folder)
    print(f"{attempts} attempts; {len(wrong)} runs differ from the undisturbed ones: {wrong}")
    table = study.results / "throughput.csv"
    make(study, str(table))
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    cells = Counter((row["cluster"], row["seed"]) for row in rows if row["status"] == "completed")
    print(f"{len(cells)} cells in throughput.csv, {len(rows)} rows")
    once = len(cells) == len(rows) == len(study.flags())
    return int(bool(wrong) or not once)


def calm_folder(study: SlurmStudy, folder: Path) -> Path:
    parts = folder.relative_to(study.results / "runs").parts
    return study.results.joinpath("runs", CALM, *parts[1:])


if __name__ == "__main__":
    sys.exit(main())
