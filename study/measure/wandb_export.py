"""A CSV export of Weights & Biases."""

from pathlib import Path

from study.csv_tables import CsvRow, read_csv
from study.measure.training_log import Covered, LogRecord, TrainingLog, Unit, mark_attempts
from trainer.problems import ConfigError

WANDB_SPEEDS: dict[str, tuple[Unit, float, Covered]] = {
    "speed/wps": ("tokens_per_s_per_gpu", 1.0, "interval"),  # lingua
    "speed/tokens_per_s": ("tokens_per_s", 1.0, "interval"),  # this project's trainer
    "throughput(tps)": ("tokens_per_s_per_gpu", 1.0, "interval"),  # torchtitan
    "train/tok_per_sec": ("tokens_per_s", 1.0, "step"),  # nanochat
    "train/dt": ("step_ms", 1e3, "step"),  # nanochat
    "time/step_s": ("step_ms", 1e3, "interval"),  # this project's trainer
}
"""Metric in Weights & Biases -> its unit, the factor to it, and what it is the mean of."""

WANDB_STEPS = ("Step", "_step", "global_step", "trainer/global_step")
"""Columns with the step, in an export of a chart or of a run's history."""


def read_wandb(path: Path) -> TrainingLog:
    """Return the speeds in a CSV export of Weights & Biases, of one run.

    The columns of a chart are `RUN - METRIC`, and those with `__MIN` and `__MAX`.
    """
    table = read_csv(path)
    steps = [name for name in WANDB_STEPS if name in table.columns]
    if not steps:
        expected = " or ".join(f"'{name}'" for name in WANDB_STEPS)
        raise ConfigError(str(path), [f"no column with the step; expected {expected}"])
    speeds = [
        (metric, name) for name in table.columns for metric in WANDB_SPEEDS
        if name == metric or name.endswith(f" - {metric}")
    ]  # fmt: skip
    if not speeds:
        expected = ", ".join(WANDB_SPEEDS)
        raise ConfigError(str(path), [f"no column with a speed; expected RUN - one of {expected}"])
    metric = speeds[0][0]
    names = [name for other, name in speeds if other == metric]
    if len(names) > 1:
        runs = ", ".join(f"'{name}'" for name in names)
        raise ConfigError(str(path), [f"several runs, {runs}; expected an export of one"])
    unit, factor, covers = WANDB_SPEEDS[metric]
    records = [
        LogRecord(_whole_or_zero(row, steps[0]), factor * row.number(names[0]), row.line)
        for row in table.rows
        if row.text(names[0])
    ]
    marked = mark_attempts(records)
    return TrainingLog(str(path), unit, marked, saves_unmarked=True, covers=covers)


def _whole_or_zero(row: CsvRow, name: str) -> int:
    return 0 if row.text(name) == "0" else row.whole(name)
