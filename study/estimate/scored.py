"""A predicted step time beside the measured one: a row of backtest.csv and of leave_one_out.csv."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoredPrediction:
    """A prediction of a step time, and the measurement."""

    cell: str
    """The predicted cell; of a configuration, its first."""
    step_ms: float
    """Predicted step time."""
    step_ms_low: float
    step_ms_high: float
    """Ends of the 80% prediction interval of the step time."""
    step_ms_measured: float
    """Measured step time, the mean; of several runs, their median."""
    error: float
    """step_ms / step_ms_measured - 1."""
    inside: bool
    """The measured time is inside the interval."""
    predicted: str | None = None
    """When it was predicted, ISO 8601; empty if it was predicted from the other measurements."""
    basis: str | None = None
    """What it was predicted from, if that was before the run."""

    @classmethod
    def of(
        cls,
        cell: str,
        measured_s: float,
        interval: tuple[float, float, float],
        predicted: str | None = None,
        basis: str | None = None,
    ) -> "ScoredPrediction":
        """Return the row of a prediction; `interval`: low end, prediction, high end; all in s."""
        low, middle, high = interval
        return cls(
            cell=cell,
            step_ms=1e3 * middle,
            step_ms_low=1e3 * low,
            step_ms_high=1e3 * high,
            step_ms_measured=1e3 * measured_s,
            error=middle / measured_s - 1,
            inside=low <= measured_s <= high,
            predicted=predicted,
            basis=basis,
        )
