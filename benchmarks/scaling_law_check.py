"""The scaling-law fit beside the published re-fit of the runs of Hoffmann et al. 2022.

    python benchmarks/scaling_law_check.py PATH_OF_RUNS.csv

The runs, with columns params, training_flop and loss, are those that Besiroglu et al. 2024 read off
a figure of the paper (github.com/epoch-research/analyzing-chinchilla); they left out the five of
the highest loss.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from study.law.scaling_law import ScalingLaw, objective  # noqa: E402
from study.law.scaling_law_table import fit_runs, read_losses  # noqa: E402

PUBLISHED = ScalingLaw(E=1.8169, A=482.01, B=2085.43, alpha=0.3478, beta=0.3659)

STANDARD_ERRORS = {"E": 0.0257, "A": 124.5, "B": 1293.3, "alpha": 0.0154, "beta": 0.0206}


def main() -> None:
    """Print each coefficient beside the published one, and the objective of both."""
    path = Path(sys.argv[1])
    runs = read_losses(path, drop_highest=5)
    fit = fit_runs(str(path), runs, "loss")
    print(f"{len(runs)} runs")
    print(f"{'':6}{'fit':>10}{'error':>10}{'published':>12}{'error':>10}{'apart, in errors':>18}")
    for row in fit.coefficients:
        published, error = getattr(PUBLISHED, row.name), STANDARD_ERRORS[row.name]
        apart = abs(row.value - published) / error
        ours = f"{row.value:10.5g}{row.standard_error:10.3g}"
        print(f"{row.name:6}{ours}{published:12.5g}{error:10.3g}{apart:18.2f}")
    ours, theirs = (objective(law, runs) for law in (fit.law, PUBLISHED))
    print(f"objective: {ours:.8f}, at the published values {theirs:.8f}")


if __name__ == "__main__":
    main()
