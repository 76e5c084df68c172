"""What Snakemake is told to make again; tests/workflow has Snakemake do it."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.grid import Grid
from study.jobs.outdated import mark_outdated
from tests.study.conftest import MakeGrid, write_run
from trainer.tokens.text_files import describe_files


def reasons(grid: Grid) -> dict[str, Any]:
    """Return the reasons that Snakemake has for a job for each file that it is told to make."""
    jobs: list[Any] = []
    dag = SimpleNamespace(
        forcefiles=set(), needrun_jobs=lambda: jobs, reason=lambda job: job.reason
    )

    def build() -> None:
        reason = {"forced": True, "params_changed": None}
        jobs.extend(
            SimpleNamespace(output=[file], reason=SimpleNamespace(**reason, missing_output=set()))
            for file in dag.forcefiles
        )

    workflow = SimpleNamespace(dag=dag, _build_dag=build)
    mark_outdated(workflow, grid)
    workflow._build_dag()
    assert not any(job.reason.forced for job in jobs)
    return {job.output[0]: job.reason for job in jobs}


def flags(grid: Grid) -> list[str]:
    return [f"{cell.folder}/completed" for cell in grid]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files: Iterable[Path] = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_runs_are_made_again_by_their_own_files(make_grid: MakeGrid) -> None:
    """Whether their flags are there or not."""
    grid = make_grid()
    write_run(grid[0])
    write_run(grid[1], fingerprint="0" * 16)
    write_run(grid[2], status="failed", outcome=None, steps_done=10)
    Path(flags(grid)[1]).touch()
    told = reasons(grid)
    assert set(told) == set(flags(grid)[1:])
    assert str(told[flags(grid)[1]].params_changed) == "settings have changed"
    for flag in flags(grid)[2:]:
        assert told[flag].missing_output == {flag}


def test_planning_only_adds_flags(make_grid: MakeGrid) -> None:
    """No older than its run, for tables that are newer."""
    grid = make_grid()
    for cell in grid:
        write_run(cell)
        Path(cell.folder, "run.yaml").write_text(cell.run.to_yaml())
    folder = Path(grid.study.folder)
    (folder / "study.yaml").write_text(grid.study.to_yaml())
    before = contents(folder)
    assert reasons(grid) == {}
    added = {path: value for path, value in contents(folder).items() if path not in before}
    assert set(added) == set(flags(grid))
    for flag in added:
        run = Path(flag).with_name("run.json")
        assert abs(Path(flag).stat().st_mtime - run.stat().st_mtime) < 1e-3
    before = contents(folder)
    told = reasons(make_grid({"run": {"steps": 60}}))
    assert set(told) == {*flags(grid), str(folder / "study.yaml")}
    assert {str(told[flag].params_changed) for flag in flags(grid)} == {"steps 40 -> 60"}
    assert str(told[str(folder / "study.yaml")].params_changed) == "the study was edited"
    assert contents(folder) == before


@pytest.mark.parametrize("damage", ["cut", "no text", "a folder"])
def test_a_damaged_study_file_is_made_again(make_grid: MakeGrid, damage: str) -> None:
    """Without a traceback; a folder in its place is left to Snakemake."""
    grid = make_grid()
    file = Path(grid.study.folder, "study.yaml")
    file.parent.mkdir(parents=True)
    if damage == "a folder":
        file.mkdir()
    else:
        file.write_bytes(b"\xff\xfe\0" if damage == "no text" else b"study: te")
    assert (str(file) in reasons(grid)) == (damage != "a folder")


def test_text_files_that_were_replaced_are_tokenised_again(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    """By others that are no newer, of which Snakemake's times say nothing."""
    chunk = tmp_path / "python_stdlib" / "python_stdlib.chunk.00.jsonl"
    chunk.parent.mkdir()
    chunk.write_text("{}")
    data = {"root_dir": str(tmp_path)}
    grid = make_grid({"corpora": [], "run": {"data": data}})
    listed = Path(grid.study.folder, "data", "python_stdlib.json")
    listed.parent.mkdir(parents=True)
    made_of = describe_files(tmp_path, [chunk])
    listed.write_text(json.dumps({"key": "0", "made_of": made_of}))
    assert str(listed) not in reasons(grid)
    os.utime(chunk, (1, 1))
    assert reasons(grid)[str(listed)].params_changed == "the text files have changed"
