"""Whether the exported models of a study can be evaluated, and what is missing if not."""

import shutil

from study.grid import Grid
from trainer.config import ConfigError

LOADED = ("bytes", "hf")
"""Tokenizers whose exports transformers loads."""


def find_problem(grid: Grid) -> ConfigError | None:
    """Return what keeps the target `evaluate` from running, None where nothing does."""
    problems = []
    if not grid.study.evaluate.tasks:
        problems.append("evaluate.tasks: found none; expected tasks, such as [hellaswag, arc_easy]")
    names = {cell.run.data.tokenizer.name for cell in grid.measured} - set(LOADED)
    for name in sorted(names):
        problems.append(
            f"run.data.tokenizer.name: found {name}, which lm_eval does not load from an export; "
            f"expected one of: {', '.join(LOADED)}"
        )
    # A cluster's setup may bring it along.
    if shutil.which("lm_eval") is None and not any(
        cell.cluster_config.setup for cell in grid.measured
    ):
        problems.append("lm_eval: not on the PATH; `pip install lm_eval[hf]` brings it")
    return ConfigError(f"evaluate, of study '{grid.study.study}'", problems) if problems else None
