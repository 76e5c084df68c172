"""Check that the runs about to be launched fit the study's budget."""

from collections.abc import Sequence

from study.config import Study
from study.estimate.forecast import Forecast
from study.formats import format_number
from study.grid import Cell
from trainer.problems import ConfigError


def check_budget(study: Study, cells: Sequence[Cell], forecast: Forecast) -> str | None:
    """Return why the launch of `cells` is stopped, or None if it fits the study's budget."""
    budget = study.budget
    if (budget.gpu_hours is None and budget.cost is None) or study.confirm == study.study:
        return None
    estimates = [forecast.estimate(cell) for cell in cells]
    problems = []
    for name, limit, values in (
        ("gpu_hours", budget.gpu_hours, [item.gpu_hours for item in estimates]),
        ("cost", budget.cost, [item.cost for item in estimates]),
    ):
        known = sum(value for value in values if value is not None)
        if limit is not None and known > limit:
            problems.append(
                f"budget.{name}: {len(cells)} to train, estimated at {format_number(known)}; the "
                f"limit is {limit:,.12g}; to launch them anyway: --config confirm={study.study}"
            )
    return str(ConfigError(f"study {study.study}", problems)) if problems else None
