"""Cells that start from a checkpoint of another cell."""

from pathlib import Path
from typing import Any

import pytest

from study.grid import Grid
from study.load import load_study
from tests.study.conftest import MakeGrid, plan, write_run
from tests.study.grids import GRID_STUDY, ONE, problems
from trainer.layers import merge
from trainer.yaml_files import parse_yaml

STABLE = {"steps": 40, "checkpoint": {"dump": {"every": 8, "keep": 0}}}


def branched(branch: dict[str, Any], trunk: dict[str, Any] | None = None, **entry: Any) -> Any:
    study = parse_yaml(GRID_STUDY, "study.yaml")
    study["variants"] = {"stable": merge(STABLE, trunk or {}), "other": {}}
    first = {**ONE, "variant": "stable", **entry.pop("first", {})}
    study["grid"] = [first, {**ONE, "variant": "other", "from": branch, **entry}]
    return study


@pytest.mark.parametrize(
    ("at", "step"), [("60%", 24), (16, 16), ("0.8 * steps", 16), ("100%", 40), (None, 40)]
)
def test_a_cell_starts_from_the_checkpoint_of_another(at: Any, step: int) -> None:
    """Percentages are of the other's steps; facts are those of the cell that starts there."""
    branch = {"cell": "stable"} | ({} if at is None else {"at": at})
    study = branched(branch, steps=20 if step < 20 else 50)
    trunk, cell = Grid(load_study(study, "study.yaml"))
    assert (cell.trunk, cell.start_step, trunk.trunk) == (trunk.folder, step, None)
    assert cell.run.checkpoint.continue_from == f"{trunk.folder}/checkpoints/{step:010d}"
    assert cell.run.checkpoint.continue_run == f"{trunk.run.trajectory(1)}-{step}"


def test_a_changed_trunk_is_another_start_and_a_moved_one_is_not() -> None:
    def cells(**changes: Any) -> Grid:
        return Grid(load_study({**branched({"cell": "stable"}, steps=50), **changes}))

    before, moved = cells(), cells(results_dir="/elsewhere")
    assert [cell.fingerprint for cell in moved] == [cell.fingerprint for cell in before]
    assert moved[1].trunk == moved[0].folder != before[0].folder
    quiet = Grid(load_study(branched({"cell": "stable"}, {"logging": {"freq": 7}}, steps=50)))
    assert quiet[0].fingerprint != before[0].fingerprint
    assert quiet[1].fingerprint == before[1].fingerprint
    hot = Grid(load_study(branched({"cell": "stable"}, {"optim": {"lr": 1e-2}}, steps=50)))
    assert hot[1].fingerprint != before[1].fingerprint


def test_a_branch_follows_its_trunk_to_the_cluster_that_has_enough_gpus() -> None:
    several = {"cluster": {"any": ["small", "here"]}, "gpus": 2}
    study = branched({"cell": "stable"}, steps=50, first=several, **several)
    study["clusters"]["small"] = {**study["clusters"]["here"], "gpus_per_node": 1}
    trunk, cell = Grid(load_study(study))
    assert (trunk.cluster, cell.cluster, cell.trunk) == ("here", "here", trunk.folder)


def test_a_branch_of_one_cluster_starts_where_a_trunk_of_several_was_placed() -> None:
    key = "other|here/tiny/gpus-1/stable/seed-42"
    several = {"cluster": {"any": ["other", "here"]}}
    study = branched({"cell": key}, steps=50, first=several, cluster="other")
    study["clusters"]["other"] = study["clusters"]["here"]
    study["placements"] = {key: "here"}
    trunk, cell = Grid(load_study(study))
    assert (trunk.cluster, cell.cluster, cell.trunk) == ("here", "other", trunk.folder)


def test_a_branch_of_several_clusters_starts_where_a_trunk_of_one_is() -> None:
    several = {"cluster": {"any": ["other", "here"]}}
    study = branched({"cell": "here/tiny/gpus-1/stable/seed-42"}, steps=50, **several)
    study["clusters"]["other"] = study["clusters"]["here"]
    trunk, cell = Grid(load_study(study))
    assert (trunk.cluster, cell.cluster, cell.trunk) == ("here", "other", trunk.folder)


def test_a_branch_of_a_cell_that_fits_nowhere_names_it() -> None:
    several = {"cluster": {"any": ["small", "here"]}}
    key = "small|here/tiny/gpus-16/stable/seed-42"
    study = branched({"cell": key}, steps=50, first={**several, "gpus": 16}, **several)
    study["clusters"]["small"] = study["clusters"]["here"]
    told = problems(study)
    assert told[0].startswith(f"grid[0].cluster: {key} can run on none of them: found 16 ")
    expected = "is never run; expected a cell that is trained"
    assert told[1:] == [f"grid[1].from.cell: {key} {expected}"]


def test_branches_of_branches_and_by_whole_name(tmp_path: Path) -> None:
    study = branched({"cell": "here/tiny/gpus-1/stable/seed-42", "at": 8}, steps=16, gpus=[1, 2])
    study["variants"]["other"] = {"checkpoint": {"dump": {"every": 4, "keep": 0}}}
    last = {"cell": "other+steps-16", "at": "75%"}
    study["grid"].append({**ONE, "variant": "other", "steps": 30, "from": last})
    made = Grid(load_study({**study, "results_dir": str(tmp_path)}))
    assert [cell.start_step for cell in made] == [0, 8, 8, 12]
    assert [cell.trunk for cell in made[1:]] == [made[0].folder, made[0].folder, made[1].folder]
    assert plan(made)[1].count("16 from 8") == 2


@pytest.mark.parametrize(
    ("study", "told"),
    [
        (branched({"cell": "stabel"}), "grid[1].from.cell: found no cell here/tiny/gpus-1/stabel/"),
        (branched({"cell": "other"}), "grid[1].from.cell: found no cell here/tiny/gpus-1/other/se"),
        (
            branched({"cell": "stable", "att": 3}),
            "grid[1].from.att: unknown key; did you mean 'at'",
        ),
        (
            branched({"cell": "stable", "at": 0}),
            "grid[1].from.at: found 0; expected a number above 0",
        ),
        (branched({"cell": "stable", "at": "q * 2"}), "grid[1].from.at: unknown name 'q'"),
        (branched({"cell": "stable", "at": "gpus < 2"}), "grid[1].from.at: found True; expected a"),
        (
            branched({"cell": "stable", "at": 16}, steps=16),
            "grid[1].from.at: found step 16 of here/tiny/gpus-1/stable/seed-42, and 16 steps in",
        ),
        (
            branched({"cell": "stable", "at": 10}, steps=30),
            "grid[1].from.at: here/tiny/gpus-1/stable/seed-42 does not keep a checkpoint of step "
            "10, as it saves every 8 steps and keeps all; expected a divisor of 10 as",
        ),
        (
            branched({"cell": "stable", "at": 8}, {"checkpoint": {"dump": {"keep": 2}}}, steps=30),
            "grid[1].from.at: here/tiny/gpus-1/stable/seed-42 does not keep a checkpoint of step",
        ),
        (
            branched({"cell": "stable", "at": 8}, {"checkpoint": None}, steps=30),
            "grid[1].from.at: here/tiny/gpus-1/stable/seed-42 saves no checkpoints",
        ),
        (
            branched({"cell": "stable", "at": 48}, steps=60),
            "grid[1].from.at: here/tiny/gpus-1/stable/seed-42 has 40 steps; found step 48",
        ),
        (
            branched({"cell": "stable"}, {"model": {"n_layers": 3}}, steps=60),
            "grid[1].from.cell: here/tiny/gpus-1/stable/seed-42 has model.n_layers = 3; expected 2",
        ),
        (
            branched({"cell": "stable"}, steps=60, first={"measure": False}),
            "grid[1].from.cell: here/tiny/gpus-1/stable/seed-42 is never run",
        ),
        (
            branched({"cell": "stable"}, steps=60, first={"gpus": [1, 2], "where": "gpus > 1"}),
            "grid[1].from.cell: here/tiny/gpus-1/stable/seed-42 is never run",
        ),
    ],
)
def test_a_checkpoint_that_the_other_will_not_have_is_refused(
    study: dict[str, Any], told: str
) -> None:
    (problem,) = problems(study)
    assert problem.startswith(told)


def test_cells_that_start_from_each_other_are_refused() -> None:
    study = branched({"cell": "stable"}, first={"from": {"cell": "other"}})
    assert sorted(problem[:32] for problem in problems(study)) == [
        "grid[0].from.cell: found no cell",
        "grid[1].from.cell: found no cell",
    ]


def test_a_branch_is_planned_with_its_own_steps(make_grid: MakeGrid) -> None:
    """30 steps of 90 s from step 20 on, of which the first is part of the start-up."""
    cells = {"cluster": "here", "model": "tiny", "gpus": 1}
    branch = {**cells, "variant": "decay", "steps": 30, "from": {"cell": "base", "at": "50%"}}
    grid = make_grid({"grid": [cells, branch], "variants": {"decay": {}},
                      "run": {"checkpoint": {"dump": {"every": 20, "keep": 0}}}})  # fmt: skip
    write_run(grid[0], step_s=90.0, startup_s=0.0)
    rows, text = plan(grid)
    assert rows[1].estimate.steps == 10
    assert rows[1].estimate.seconds == pytest.approx(9 * 90, rel=0.02)
    assert "30 from 20" in text
