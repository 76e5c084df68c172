"""What is done before the first job and after a failure, also if the study is a module.

Snakemake runs the hooks of the main Snakefile only (`onstart:`, `onerror:`).
"""

from collections.abc import Callable
from typing import Any

from study.grid import Grid

Hook = Callable[[Any], None]
"""Takes the path of Snakemake's log."""

HOOKED = "_study"
"""Attribute of the workflow: the study that has its hooks."""


def hook(workflow: Any, grid: Grid) -> None:
    """Run the study's hooks before those of the main Snakefile, which may be defined later.

    A workflow with a second study is ended with a message: the executors know one.
    """
    from study.jobs.after_failure import make_tables
    from study.jobs.dispatch import start

    known = getattr(workflow, HOOKED, None)
    if known not in (None, grid.study.study):
        raise SystemExit(
            f"a workflow with two studies, {known} and {grid.study.study}; expected one: give them "
            "one grid, or start Snakemake for each"
        )
    if known is None:
        setattr(workflow, HOOKED, grid.study.study)
        _run_before(workflow, "onstart", lambda log: start(workflow, grid))
        _run_before(workflow, "onerror", lambda log: make_tables(workflow, grid))


def _run_before(workflow: Any, name: str, ours: Hook) -> None:
    register: Callable[[Hook], None] = getattr(workflow, name)

    def combine(theirs: Hook) -> Hook:
        def both(log: Any) -> None:
            ours(log)
            theirs(log)

        return both

    setattr(workflow, name, lambda theirs: register(combine(theirs)))
    setattr(workflow, f"_{name}", combine(getattr(workflow, f"_{name}")))
