"""From how long a run on compiling pays, where it is done while the run trains.

    python benchmarks/compile_pays.py [--shape nano mini] [--turns 3] [--threads 1]

Runs of the trainer, in turns: one eager, one with `compile: later` and an empty cache. Of the
second: the seconds until another process had compiled, in which steps are slower, and the
standstill while the run takes that over. It pays where what is left to train takes eager longer
than

    (standstill + compiling x (1 - eager / slower)) / (1 - compiled / eager)

with the times of a step; never (inf) where compiled steps were no faster, as in some turns of a
machine whose speed changes. Medians, with the least and the most.
"""

import argparse
import math
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.trainer_runs import settings, shape_of, train, write_text
from trainer import host
from trainer.config import merge

EAGER_S, LATER_S = 10.0, 40.0
"""Seconds of a run's training, about."""

Times = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description="When compiling pays")
    parser.add_argument("--shape", nargs="+", default=["nano", "mini"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of the run; all cores where it is not given")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256)
    options = parser.parse_args()
    print(
        f"{host.processor_name()}, {host.count_cores()} cores, "
        f"{options.threads or 'as many'} threads, {options.turns} turns"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder)
        for shape in options.shape:
            step_s = run(folder, options, shape, False, 30)["compiled"]
            found = [turn(folder, options, shape, step_s) for _ in range(options.turns)]
            print(f"{shape}, {options.batch_size} x {options.seq_len}:")
            for key in found[0]:
                values = sorted(item[key] for item in found)
                middle = statistics.median(values)
                print(f"  {key:34} {middle:8.3f} ({values[0]:.3f} to {values[-1]:.3f})")


def turn(folder: Path, options: argparse.Namespace, shape: str, step_s: float) -> Times:
    eager = run(folder, options, shape, False, round(EAGER_S / step_s))["compiled"]
    later = run(folder, options, shape, "later", round(LATER_S / step_s))
    lost_s = later["standstill"] + later["compiling"] * (1 - eager / later["slower"])
    gain = 1 - later["compiled"] / eager
    return {
        "eager step, ms": 1e3 * eager,
        "step while compiling, ms": 1e3 * later["slower"],
        "compiled step, ms": 1e3 * later["compiled"],
        "compiling, s": later["compiling"],
        "standstill, s": later["standstill"],
        "pays after, s of eager training": lost_s / gain if gain > 0 else math.inf,
    }


def run(
    folder: Path, options: argparse.Namespace, shape: str, compiled: bool | str, steps: int
) -> Times:
    """Return times of a run, s: of its steps, and of compiling where it did."""
    batch = options.batch_size, options.seq_len
    values = settings(folder, shape_of(shape), batch, steps)
    own = {"compile": compiled, "threads": options.threads}
    own["compile_cache"] = tempfile.mkdtemp(prefix="cache-", dir=folder)
    facts, (_, *records) = train(merge(values, {"distributed": own}))
    (attempt,) = facts["attempts"]
    switch = attempt["compiled_from"]
    if switch is None:
        return {"compiled": statistics.median(record["time/step_s"] for record in records)}
    before = [record for record in records if record["global_step"] < switch]
    after = [record for record in records if record["global_step"] >= switch]
    return {
        "compiled": statistics.median(record["time/step_s"] for record in after),
        "slower": statistics.median(record["time/step_s"] for record in before),
        "compiling": before[-1]["time/elapsed_s"] - attempt["startup"]["total_s"],
        "standstill": attempt["standstill_s"],
    }


if __name__ == "__main__":
    main()
