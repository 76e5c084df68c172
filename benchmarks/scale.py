"""How the commands grow with the study: CPU time and peak memory at several sizes, and exponents.

    python -m benchmarks.scale --sizes 10 1000 10000

A study of as many cells is planned and, with synthetic runs that are written without training,
turned into tables and figures. `dry run` is `snakemake -n` of the study, `bare dry run` that of a
workflow of as many trivial jobs, `plan` that of a Slurm partition without any measurement, and
`records` the throughput table of one run with 100 records for each unit of size. The logs of other
trainers have as many lines. k is the exponent of growth, time ~ n^k, between the two largest sizes,
without the time of the smallest: that is Python's start. Every process is one of its own; times are
user and system CPU time, but on a busy machine these grow too, so compare what one call prints.
"""

import json
import math
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import ROOT, command_line, run
from study.command_line import whole
from study.grid import Cell
from study.load import load_grid_file
from trainer.records import METRICS, SUMMARY, Attempt, Record, RunSummary

RECORDS = 100
"""Records of `records`, and lines of a foreign log, for each unit of size."""

RECORDS_OF_RUN = 20
"""Records of each of the other runs."""

BARE = """
rule all:
    input: [f"out/{i}/completed" for i in range(int(config["count"]))]

rule train:
    output: touch("out/{i}/completed")
    shell: "echo {wildcards.i}"
"""

READ_LOG = """
import sys
from pathlib import Path
from study.measure.foreign_logs import FORMATS
print(len(FORMATS[sys.argv[1]].read(Path(sys.argv[2])).records))
"""


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    cpu_s: float
    peak_mib: float


Prepare = Callable[[Path, int], list[str]]
"""Writes the inputs of a size into a folder, and returns the command to measure."""


def main(arguments: list[str] | None = None) -> None:
    parser = command_line(__doc__)
    parser.add_argument("--sizes", type=whole, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--only", nargs="+", choices=[*TASKS], default=[*TASKS])
    options = parser.parse_args(arguments)
    sizes = sorted(options.sizes)
    table: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            for name in options.only:
                cost = measure(TASKS[name](Path(folder, f"{size}"), size))
                table.setdefault(name, []).append(cost)
                print(f"{name}, n = {size:,}: {cost}", file=sys.stderr, flush=True)
    print(f"{'':18}" + "".join(f"{f'n = {size:,}':>22}" for size in sizes) + f"{'k':>8}")
    for name, costs in table.items():
        cells = [f"{cost.cpu_s:.1f} s, {cost.peak_mib:,.0f} MiB" for cost in costs]
        k = exponent(sizes, [cost.cpu_s for cost in costs])
        print(f"{name:18}" + "".join(f"{cell:>22}" for cell in cells) + f"{k:>8}")
    if {"dry run", "bare dry run"} <= set(table):
        ratios = [
            a.cpu_s / b.cpu_s for a, b in zip(table["dry run"], table["bare dry run"], strict=True)
        ]
        print(f"{'dry run over bare':18}" + "".join(f"{f'x{ratio:.2f}':>22}" for ratio in ratios))


def measure(command: list[str]) -> Cost:
    """Return what a command took. Ends the program if it fails."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(command)}:\n{output.read().decode(errors='replace')}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def exponent(sizes: list[int], times: list[float]) -> str:
    """Return k of time ~ n^k between the two largest sizes, without the time of the smallest."""
    if len(sizes) < 3:
        return ""
    before, after = (time - times[0] for time in times[-2:])
    if min(before, after) < 0.2:
        return "-"  # as long as the start alone
    return f"{math.log(after / before) / math.log(sizes[-1] / sizes[-2]):.2f}"


# The inputs.


def study_file(folder: Path, size: int, slurm: bool = False) -> Path:
    """Write a study of `size` cells: up to 10 models, 10 GPU counts, 10 variants, 10 seeds."""
    sides = [10 if size >= 10**power else 1 for power in (1, 2, 3, 4)]
    models, counts, variants, seeds = sides
    if math.prod(sides) != size:
        models, counts, variants, seeds = size, 1, 1, 1
    cluster: dict[str, Any] = {"gpu_name": "H200", "gpus_per_node": 8, "peak_tflops": 989.5}
    request = {"partition": "fast", "gpu_request": "gres", "max_nodes": 64}
    if slurm:
        cluster["slurm"] = request
    else:
        cluster |= {"device": "cpu", "gpus_per_node": 512, "peak_tflops": None}
    names = ["base", *(f"v{number}" for number in range(1, variants))]
    study = {
        "study": f"scale{'-slurm' if slurm else ''}",
        "results_dir": str(folder / "results"),
        "models": {
            f"m{i}": {"dim": 64 * (1 + i), "n_layers": 2, "n_heads": 1 + i} for i in range(models)
        },
        "clusters": {"here": cluster},
        "corpora": ["python_stdlib"],
        "run": {
            "steps": 10 * RECORDS_OF_RUN,
            "data": {"root_dir": str(folder), "sources": {"python_stdlib": 1.0}, "seq_len": 64},
            "logging": {"freq": 10},
        },
        "variants": {
            name: {"optim": {"lr": 1e-4 * i}} if i % 2 else {"data": {"seq_len": 64 * i}}
            for i, name in enumerate(names)
            if i
        },
        "grid": [
            {
                "cluster": "here",
                "model": [f"m{i}" for i in range(models)],
                "gpus": [2**i for i in range(counts)],
                "variant": names,
                "seed": list(range(seeds)),
            }
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{study['study']}.yaml"
    path.write_text(json.dumps(study))
    return path


def trained_study(folder: Path, size: int) -> Path:
    """Write a study and the folders of its runs."""
    path = study_file(folder, size)
    if not (folder / "results").exists():
        for cell in load_grid_file(str(path)):
            write_run(cell, RECORDS_OF_RUN)
    return path


def measured_study(folder: Path, size: int) -> tuple[Path, Path]:
    """Write a trained study and its throughput table; return both paths."""
    path, table = trained_study(folder, size), folder / "throughput.csv"
    if not table.exists():
        measure(["-m", "study", "throughput", "--study", str(path), "--output", str(table)])
    return path, table


def write_run(cell: Cell, count: int) -> None:
    """Write the folder of a completed run with `count` records."""
    noise = random.Random(cell.name)
    folder, each = Path(cell.folder), max(1, cell.run.steps // count)
    folder.mkdir(parents=True)
    usual_s = 0.02 + 2e-9 * cell.params * cell.run.data.seq_len / 64
    elapsed_s = 5.0
    with (folder / METRICS).open("w") as metrics:
        for step in range(each, each * count + 1, each):
            step_s = usual_s * noise.uniform(1.0, 1.1)
            elapsed_s += each * step_s
            loss = 1.5 + 60 / cell.params**0.25 + 3 / step**0.4 + noise.gauss(0, 0.02)
            record = Record(
                step=step,
                loss=loss,
                tokens=step * cell.tokens_per_step,
                elapsed_s=elapsed_s,
                step_s=step_s,
                interval_steps=each,
                attempt=1,
            )
            print(record.to_json(), file=metrics)
    attempt = Attempt(
        attempt=1,
        start="2026-01-01T00:00:00+00:00",
        wall_s=elapsed_s,
        status="completed",
        fingerprint=cell.fingerprint,
        startup={"total_s": 5.0},
    )
    summary = RunSummary(
        status="completed",
        outcome="trained",
        params=cell.params,
        fingerprint=cell.fingerprint,
        steps_done=cell.run.steps,
        peak_memory_gib=1.0,
        attempts=(attempt,),
    )
    (folder / SUMMARY).write_text(summary.to_json())


# The commands.


def dry_run(folder: Path, size: int) -> list[str]:
    return ["-m", "snakemake", "-n", "--configfile", str(study_file(folder / "new", size))]


def bare_dry_run(folder: Path, size: int) -> list[str]:
    place = folder / "bare"
    place.mkdir(parents=True)
    (place / "Snakefile").write_text(BARE)
    words = ["--snakefile", str(place / "Snakefile"), "--directory", str(place)]
    return ["-m", "snakemake", "-n", *words, "--config", f"count={size}"]


def plan(folder: Path, size: int) -> list[str]:
    path = study_file(folder / "plan", size, slurm=True)
    return ["-m", "study", "plan", "--study", str(path)]


def throughput(folder: Path, size: int) -> list[str]:
    output = folder / "again.csv"
    path = trained_study(folder, size)
    return ["-m", "study", "throughput", "--study", str(path), "--output", str(output)]


def estimate(folder: Path, size: int) -> list[str]:
    path, table = measured_study(folder, size)
    words = ["--throughput", str(table), "--output", str(folder / "time_estimates.csv")]
    return ["-m", "study", "estimate", "--study", str(path), *words]


def loss_curves(folder: Path, size: int) -> list[str]:
    path = trained_study(folder, size)
    words = ["--study", str(path), "--output-dir", str(folder / "figures")]
    return ["-m", "study", "plot-losses", *words]


def records(folder: Path, size: int) -> list[str]:
    path = study_file(folder / "records", 1)
    (cell,) = load_grid_file(str(path))
    write_run(cell, RECORDS * size)
    output = folder / "records.csv"
    return ["-m", "study", "throughput", "--study", str(path), "--output", str(output)]


def foreign_log(name: str, line: str) -> Prepare:
    """Return a task that reads a log in which each line is `line` with its number as `step`."""

    def prepare(folder: Path, size: int) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.log"
        with path.open("w") as file:
            for step in range(RECORDS * size):
                print(line.format(step=step), file=file)
        return ["-c", READ_LOG, name, str(path)]

    return prepare


TASKS: dict[str, Prepare] = {
    "bare dry run": bare_dry_run,
    "dry run": dry_run,
    "plan": plan,
    "throughput": throughput,
    "estimate": estimate,
    "loss curves": loss_curves,
    "records": records,
    "nanogpt": foreign_log("nanogpt", "iter {step}: loss 3.1234, time 123.45ms, mfu 30.12%"),
    "torchtitan": foreign_log(
        "torchtitan", "step: {step}  loss: 7.12  memory: 1.0GiB  tps: 6,123  mfu: 1%"
    ),
}
"""Name -> what prepares it, in the order of the table."""


if __name__ == "__main__":
    run(main)
