"""The tables of how accurate the estimates are, which figures and report read.

They stand beside time_estimates.csv: estimate_check.csv, leave_one_out.csv and backtest.csv.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study.config import Study
from study.csv_tables import read_as
from study.estimate.backtest import score_predictions
from study.estimate.calibration import Check, estimate_checks, leave_one_out
from study.estimate.scored import ScoredPrediction
from study.files import write_csv
from study.measure.measurement import Measurement

CHECKS, LEFT_OUT, BACKTEST = "estimate_check.csv", "leave_one_out.csv", "backtest.csv"


@dataclass(frozen=True)
class Accuracy:
    """Predictions of step times beside their measurements."""

    checks: Sequence[Check]
    left_out: Sequence[ScoredPrediction]
    """Each measured configuration, predicted from the others."""
    backtest: Sequence[ScoredPrediction]
    """Predictions made before the runs."""

    @classmethod
    def of(cls, study: Study, measurements: Sequence[Measurement]) -> "Accuracy":
        """Return how accurate the estimates of a study's measurements are. Raises ConfigError."""
        left_out, backtest = leave_one_out(measurements), score_predictions(study, measurements)
        return cls(estimate_checks(measurements), left_out, backtest)

    def write(self, estimates_csv: Path) -> None:
        """Write the tables beside a time_estimates.csv."""
        write_csv(estimates_csv.with_name(CHECKS), self.checks, Check)
        write_csv(estimates_csv.with_name(LEFT_OUT), self.left_out, ScoredPrediction)
        write_csv(estimates_csv.with_name(BACKTEST), self.backtest, ScoredPrediction)


def read_accuracy(estimates_csv: Path) -> Accuracy:
    """Return the tables beside a time_estimates.csv. Raises ConfigError."""
    checks, left_out, backtest = (estimates_csv.parent / n for n in (CHECKS, LEFT_OUT, BACKTEST))
    return Accuracy(
        read_as(checks, Check, "a table of checks", "estimate"),
        read_as(left_out, ScoredPrediction, "a table of predictions", "estimate"),
        read_as(backtest, ScoredPrediction, "a table of predictions", "estimate"),
    )
