"""Which cluster? The choice for cells whose block names several, `cluster: {any: [a, b]}`.

A cell goes to the cluster on which its run is expected to end first: the time until its job would
start (`sbatch --test-only`), after the cells of this study that are to run there before it, plus
the estimated time of the run. A cell that has been measured, runs, or is in the queue stays where
it is.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from study.grid import Cell, Grid, alternatives
from study.jobs.prospects import Prospects
from study.load import undecided
from study.measure.summaries import is_stale, is_up_to_date, read_summary
from study.placements import (
    FILE,
    Placement,
    Prospect,
    UnplaceableError,
    record_placements,
)
from trainer.problems import ConfigError, Problem


def record(grid: Grid) -> Grid:
    """Choose clusters for the cells that have none, and write them down."""
    made = _dated(choose(grid))
    return _with(grid, record_placements(grid.study.folder, made, grid.placements), pinned=True)


def show(grid: Grid) -> Grid:
    """Choose clusters for the cells that have none."""
    return _with(grid, choose(grid), pinned=False)


def refuse(grid: Grid) -> Grid:
    """Raise ConfigError: a job reads the choices that Snakemake has made."""
    found = f"no cluster for {undecided(grid)[0]}; start Snakemake again, which chooses one"
    raise ConfigError(str(Path(grid.study.folder, FILE)), [found])


def record_again(grid: Grid) -> Grid:
    """Choose clusters again except for cells that stay, and write them down.

    `grid` is that of a study whose earlier choices do not count. Raises ConfigError while
    Snakemake, which has planned with them, is running here.
    """
    path = str(Path(grid.study.folder, FILE))
    if any(Path(".snakemake", "locks").glob("*")):
        expected = "none, as it submits jobs by the present choices (if it was killed: --unlock)"
        raise ConfigError(path, [f"found a running Snakemake; expected {expected}"])
    return record(grid)


def _dated(made: Mapping[str, Placement]) -> dict[str, Placement]:
    """Return placements with the present time, if they have none from before."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        key: p if p.decided else p.model_copy(update={"decided": now}) for key, p in made.items()
    }


def _with(grid: Grid, made: Mapping[str, Placement], pinned: bool) -> Grid:
    """Return the grid with its cells on the chosen clusters; `pinned`: its study states them."""
    chosen = {key: made[key].cluster for key in undecided(grid)}
    placements = {**grid.study.placements, **chosen}
    study = grid.study.model_copy(update={"placements": placements})
    return Grid(study if pinned else grid.study, list(Grid(study)), {**grid.placements, **made})


def choose(grid: Grid) -> dict[str, Placement]:
    """Return a placement for each cell with several clusters of which none is chosen yet.

    Raises UnplaceableError if no cluster is left for a cell, and ConfigError if a file is
    malformed.
    """
    waiting = set(undecided(grid))
    prospects = Prospects(grid)
    made: dict[str, Placement] = {}
    problems: list[Problem] = []
    for place in alternatives(grid.study):
        key, cells = place.cells[0].placement, place.cells
        if key in waiting and place.leads:
            waiting.remove(key)
            kept = _find_stay(cells, prospects, grid.placements.get(key))
            told = {} if kept else {**prospects.of(cells), **place.impossible}
            found = {name: told[name] for name in place.candidates if name in told}
            best = _find_best(cells, found)
            if kept or best:
                made[key] = kept or Placement(cluster=best, prospects=found)
            else:
                reasons = "; ".join(f"{name}: {item.impossible}" for name, item in found.items())
                message = f"{key} can run on none of them: {reasons}"
                problems.append(Problem((*place.where, "cluster"), message))
        chosen = made[key].cluster if key in made else None
        if key not in waiting:
            prospects.expect(next((cell for cell in cells if cell.cluster == chosen), cells[0]))
    if problems:
        raise UnplaceableError("", problems)
    return made


def _find_stay(
    cells: Sequence[Cell], prospects: Prospects, earlier: Placement | None
) -> Placement | None:
    """Return the placement of a cell that has been measured, runs or is in the queue; otherwise
    None.

    `cells` are the cell on each of its clusters; what was known of an `earlier` choice is kept.
    """
    reasons: tuple[Callable[[Cell], str], ...] = (
        lambda cell: "measured there" if is_up_to_date(cell) else "",
        lambda cell: "its run has begun there" if _has_begun(cell) else "",
        lambda cell: (
            f"in the queue there, Slurm job {job}" if (job := prospects.job_of(cell)) else ""
        ),
    )
    for reason in reasons:
        for cell in cells:
            because = reason(cell)
            if because:
                same = earlier is not None and earlier.cluster == cell.cluster
                return earlier if same else Placement(cluster=cell.cluster, because=because)
    return None


def _has_begun(cell: Cell) -> bool:
    """Return whether a cell has a run with its present settings that has made steps, or may."""
    summary = read_summary(cell.folder)
    if summary is None or is_stale(cell, summary):
        return False
    return summary.status == "running" or summary.steps_done > 0


def _find_best(cells: Sequence[Cell], found: Mapping[str, Prospect]) -> str:
    """Return the cluster on which a cell's run ends first; empty if it can run on none.

    A wait that is not known counts as the longest of those that are: of two clusters, the estimate
    alone decides. A time that is not known is longer than any. Of equals, it is the first in the
    study file.
    """
    possible = [c.cluster for c in cells if c.cluster in found and not found[c.cluster].impossible]
    longest = max((found[name].wait_s or 0.0 for name in possible), default=0.0)

    def end(name: str) -> tuple[bool, float]:
        seconds, wait_s = found[name].seconds, found[name].wait_s
        return seconds is None, (seconds or 0.0) + (longest if wait_s is None else wait_s)

    return min(possible, key=end, default="")
