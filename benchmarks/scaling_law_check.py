"""Our scaling-law fit compared with the published re-fit of the runs of Hoffmann et al. 2022.

    python -m benchmarks.scaling_law_check RUNS.csv
    python -m benchmarks.scaling_law_check --planted 100

RUNS.csv has the columns params, training_flop and loss: the runs that Besiroglu et al. 2024 read
off a figure of the paper (github.com/epoch-research/analyzing-chinchilla). Like them, the fit drops
the five with the highest loss.

With --planted: the share of planted laws whose coefficients, and whose optimum at ten times the
largest budget, are inside the 80% intervals, over that many synthetic sets of 9, 16 and 25 runs.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import command_line, run
from study.command_line import whole
from study.law.scaling_law import (
    ScalingLaw,
    TrainedModel,
    bootstrap,
    find_flat,
    find_missing,
    find_open_exponents,
    fit_law,
    objective,
)
from study.law.scaling_law_table import fit_runs, read_losses

PUBLISHED = ScalingLaw(E=1.8169, A=482.01, B=2085.43, alpha=0.3478, beta=0.3659)

STANDARD_ERRORS = {"E": 0.0257, "A": 124.5, "B": 1293.3, "alpha": 0.0154, "beta": 0.0206}


NOISE = 0.005
"""Standard deviation of the logarithm of a planted loss: that of seeds."""

RESAMPLES = 60

COVERED: dict[str, Callable[[ScalingLaw, float], float]] = {
    "E": lambda law, _: law.E,
    "A": lambda law, _: law.A,
    "B": lambda law, _: law.B,
    "alpha": lambda law, _: law.alpha,
    "beta": lambda law, _: law.beta,
    "optimum": lambda law, flops: law.optimum(flops)[0],
    "its loss": lambda law, flops: law.loss(*law.optimum(flops)),
}
"""Name -> what the 80% interval is of, from a law and ten times the largest budget."""


def plant(side: int, random: np.random.Generator) -> list[TrainedModel]:
    """Return side x side runs of the published law, with noise."""
    return [
        TrainedModel("", n, d, PUBLISHED.loss(n, d) * math.exp(random.normal(0, NOISE)))
        for n in np.geomspace(2e7, 1e9, side)
        for d in np.geomspace(5e8, 2e10, side)
    ]


def print_coverage(sets: int) -> None:
    """Print a line for each number of runs: the share inside each interval, or why none."""
    random = np.random.default_rng(0)
    print(f"{'runs':>4}{'refused':>9}", *(f"{name:>9}" for name in COVERED))
    for side in (3, 4, 5):
        inside = []
        for _ in range(sets):
            runs = plant(side, random)
            if find_missing(runs) or find_flat(runs):
                continue
            law = fit_law(runs)
            resampled = bootstrap(runs, law, RESAMPLES)
            if not find_open_exponents(resampled):
                flops = 10 * max(run.flops for run in runs)
                inside.append([_covers(read, resampled, flops) for read in COVERED.values()])
        shares = np.mean(inside, axis=0) if inside else []
        print(f"{side**2:4}{sets - len(inside):9}", *(f"{share:9.0%}" for share in shares))


def _covers(
    read: Callable[[ScalingLaw, float], float], laws: Sequence[ScalingLaw], flops: float
) -> bool:
    low, high = np.quantile([read(law, flops) for law in laws], (0.1, 0.9))
    return bool(low <= read(PUBLISHED, flops) <= high)


def main() -> None:
    """Print each coefficient, ours and the published one, and the objective of both."""
    parser = command_line(__doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS.csv", nargs="?")
    parser.add_argument("--planted", type=whole, metavar="SETS", help="check the intervals instead")
    options = parser.parse_args()
    if options.planted:
        print_coverage(options.planted)
        return
    path = options.runs
    if path is None:
        parser.error("expected RUNS.csv or --planted SETS")
    runs = read_losses(path, drop_highest=5)
    fit = fit_runs(str(path), runs, "loss")
    print(f"{len(runs)} runs")
    print(f"{'':6}{'fit':>10}{'error':>10}{'published':>12}{'error':>10}{'difference/error':>18}")
    for row in fit.coefficients:
        published, error = getattr(PUBLISHED, row.name), STANDARD_ERRORS[row.name]
        difference = abs(row.value - published) / error
        ours = f"{row.value:10.5g}{row.standard_error:10.3g}"
        print(f"{row.name:6}{ours}{published:12.5g}{error:10.3g}{difference:18.2f}")
    ours, theirs = (objective(law, runs) for law in (fit.law, PUBLISHED))
    print(f"objective: {ours:.8f}, at the published values {theirs:.8f}")


if __name__ == "__main__":
    run(main)
