"""Our scaling-law fit compared with the published re-fit of the runs of Hoffmann et al. 2022.

    python -m benchmarks.scaling_law_check RUNS.csv

RUNS.csv has the columns params, training_flop and loss: the runs that Besiroglu et al. 2024 read
off a figure of the paper (github.com/epoch-research/analyzing-chinchilla). Like them, the fit drops
the five with the highest loss.
"""

from pathlib import Path

from benchmarks import command_line
from study.law.scaling_law import ScalingLaw, objective
from study.law.scaling_law_table import fit_runs, read_losses

PUBLISHED = ScalingLaw(E=1.8169, A=482.01, B=2085.43, alpha=0.3478, beta=0.3659)

STANDARD_ERRORS = {"E": 0.0257, "A": 124.5, "B": 1293.3, "alpha": 0.0154, "beta": 0.0206}


def main() -> None:
    """Print each coefficient, ours and the published one, and the objective of both."""
    parser = command_line(__doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS.csv")
    path = parser.parse_args().runs
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
    main()
