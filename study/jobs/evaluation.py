"""Check that the exported models of a study can be evaluated."""

import shutil

from study.grid import Grid
from trainer.problems import ConfigError

LOADED = ("bytes", "hf")
"""Tokenizers whose exports transformers can load."""


def find_problem(grid: Grid) -> ConfigError | None:
    """Return why the target `evaluate` cannot run; None if it can."""
    problems = []
    if not grid.study.evaluate.tasks:
        problems.append("evaluate.tasks: found none; expected tasks, such as [hellaswag, arc_easy]")
    names = {cell.run.data.tokenizer.name for cell in grid.measured} - set(LOADED)
    for name in sorted(names):
        problems.append(
            f"run.data.tokenizer.name: found {name}, which lm_eval cannot load from an export; "
            f"expected one of: {', '.join(LOADED)}"
        )
    # A cluster's `setup` may put it on the PATH, and a container may have it.
    clusters = [cell.cluster_config for cell in grid.measured]
    provided = any(cluster.setup or cluster.container for cluster in clusters)
    if shutil.which("lm_eval") is None and not provided:
        problems.append("lm_eval: not on the PATH; run `pip install lm_eval[hf]`")
    return ConfigError(f"evaluate, of study '{grid.study.study}'", problems) if problems else None
