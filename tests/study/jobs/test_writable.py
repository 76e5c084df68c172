"""Results of another user. As root, who may write everything, the tests ask as user nobody."""

import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from study.grid import Grid
from study.jobs.outdated import mark_outdated
from study.jobs.writable import find_unwritable
from tests.study.conftest import MakeGrid, write_run

NOBODY = 65534


def as_another(ask: Callable[[], str]) -> str:
    """Return what a function returns to a user who is not root."""
    if os.getuid() != 0:
        return ask()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(NOBODY)
            os.write(writer, ask().encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = file.read()
    os.waitpid(child, 0)
    return answer


@pytest.fixture
def grid(make_grid: MakeGrid) -> Iterator[Grid]:
    """A grid whose results every user can come to, unlike pytest's folders, and some TMPDIR."""
    with tempfile.TemporaryDirectory(dir="/tmp" if os.getuid() == 0 else None) as folder:
        Path(folder, "results").mkdir()
        set_modes(Path(folder), 0o755, 0o644)  # whatever the umask
        study = make_grid().study.model_copy(update={"results_dir": f"{folder}/results"})
        yield Grid(study)
        set_modes(Path(folder), 0o755, 0o644)


def owner_of(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:  # as in a container that is started for any user
        return f"user {path.stat().st_uid}"


def set_modes(folder: Path, folders: int, files: int) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(folders if path.is_dir() else files)


def test_a_study_of_another_user_is_named_before_the_first_job(grid: Grid) -> None:
    """`snakemake plan` ended with a traceback of Snakemake's, on its own log."""
    write_run(grid[0])
    folder = Path(grid.study.folder)
    set_modes(folder, 0o555, 0o444)
    told = as_another(lambda: find_unwritable(grid, []))
    assert f"  {folder}: not writable; it belongs to {owner_of(folder)}\n" in told
    assert "write nothing" in told.splitlines()[-1]
    folder.chmod(0o777)
    assert as_another(lambda: find_unwritable(grid, [])) == ""


def test_a_study_below_a_folder_that_is_closed_is_named_by_that(grid: Grid) -> None:
    """As with `umask 077`: a traceback said that a file could not be looked at."""
    write_run(grid[0])
    closed = Path(grid.study.results_dir)
    closed.chmod(0)
    told = as_another(lambda: find_unwritable(grid, [grid[0]]))
    closed.chmod(0o755)
    assert f"  {closed}: not writable; it belongs to {owner_of(closed)}\n" in told


def test_a_run_of_another_user_is_named_with_the_files_that_an_attempt_opens(
    grid: Grid,
) -> None:
    """Folders that a group may write, with files that it may not: `umask 022`. The run ended with a
    PermissionError on .lock, and had it not, tee would have failed it."""
    write_run(grid[0], status="running", outcome=None)
    folder = Path(grid[0].folder)
    for name in (".lock", "train.log"):
        (folder / name).touch()
    set_modes(Path(grid.study.folder), 0o777, 0o444)
    told = as_another(lambda: find_unwritable(grid, [grid[0], grid[1]]))
    named = [line.split(":")[0].strip() for line in told.splitlines() if "belongs" in line]
    assert named == [f"{folder}/.lock", f"{folder}/train.log"]
    assert as_another(lambda: find_unwritable(grid, [grid[1]])) == ""


def test_planning_beside_results_of_another_user_ends_with_no_traceback(
    grid: Grid, capfd: pytest.CaptureFixture[str]
) -> None:
    """A flag that is missing could not be created."""

    def plan() -> str:
        mark_outdated(SimpleNamespace(_build_dag=lambda: None), grid)
        return "planned"

    write_run(grid[0])
    flag = Path(grid[0].folder, "completed")
    plan()
    flag.unlink()  # which must exist: its owner's planning has made it
    set_modes(Path(grid.study.folder), 0o555, 0o444)
    assert as_another(plan) == "planned"
    assert f"{flag}: cannot be created: " in capfd.readouterr().err
