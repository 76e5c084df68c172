import json
from math import isnan
from pathlib import Path

import pytest

from study.grid import Cell
from study.measure.run_files import each_run, find_damage, read_run
from study.measure.summaries import read_summary
from tests.study.conftest import MakeGrid, write_run
from trainer.problems import ConfigError


@pytest.fixture
def cell(make_grid: MakeGrid) -> Cell:
    """A cell whose run has ended: records at steps 1, 10, 20, 30, 40."""
    cell = make_grid()[0]
    write_run(cell, evaluations={20: 3.0, 40: 2.5})
    return cell


def metrics(cell: Cell) -> Path:
    return Path(cell.folder, "metrics.jsonl")


def problem(cell: Cell) -> str:
    with pytest.raises(ConfigError) as caught:
        read_run(cell.folder)
    return str(caught.value)


def test_a_run_is_read_completely(cell: Cell) -> None:
    run = read_run(cell.folder)
    assert run is not None
    assert [record.step for record in run.records] == [1, 10, 20, 30, 40]
    assert [item.loss for item in run.evaluations] == [3.0, 2.5]
    assert run.summary.attempts[0].startup_s == 4.0


def test_no_folder_is_no_run(tmp_path: Path) -> None:
    assert read_run(tmp_path / "nowhere") is None
    assert read_summary(tmp_path) is None


def test_a_run_without_records_is_a_run(cell: Cell) -> None:
    metrics(cell).unlink()
    Path(cell.folder, "metrics.eval.jsonl").unlink()
    run = read_run(cell.folder)
    assert run is not None
    assert len(run.records) == 0
    assert run.evaluations == ()


def test_a_file_cut_at_any_byte_reads_as_its_complete_lines(cell: Cell) -> None:
    content = metrics(cell).read_bytes()
    for end in range(len(content)):
        metrics(cell).write_bytes(content[:end])
        run = read_run(cell.folder)
        assert run is not None
        whole = content[: end + 1].count(b"\n")  # a line is whole without its line end too
        assert len(run.records) == whole


def test_an_incomplete_line_in_the_middle_of_the_file_is_an_error(cell: Cell) -> None:
    lines = metrics(cell).read_text().splitlines()
    lines[2] = lines[2][:30]
    metrics(cell).write_text("\n".join(lines) + "\n")
    assert problem(cell).startswith(f"{metrics(cell)}, line 3: 1 problem\n  not valid JSON: ")


def test_a_wrong_value_is_reported_with_file_line_and_key(cell: Cell) -> None:
    lines = metrics(cell).read_text().splitlines()
    record = json.loads(lines[1])
    del record["time/step_s"]
    record["global_step"] = "ten"
    lines[1] = json.dumps(record)
    metrics(cell).write_text("\n".join(lines) + "\n")
    message = problem(cell)
    assert f"{metrics(cell)}, line 2: 2 problems" in message
    assert "global_step: found 'ten'; " in message
    assert "time/step_s: missing" in message


def test_a_duplicate_step_is_an_error(cell: Cell) -> None:
    content = metrics(cell).read_text()
    metrics(cell).write_text(content + content.splitlines()[-1] + "\n")
    assert "line 6: 1 problem\n  global_step: found 40 after 40; expected a later" in problem(cell)
    metrics(cell).write_text(content + content.splitlines()[1] + "\n")
    assert "line 6: 1 problem\n  global_step: found 10 after 40; expected a later" in problem(cell)


@pytest.mark.parametrize("text", ["[1]\n", "7\n"])
def test_a_line_that_is_not_an_object_is_an_error(cell: Cell, text: str) -> None:
    metrics(cell).write_text(text)
    assert "line 1: 1 problem\n  expected a JSON object, found" in problem(cell)


def test_evaluations_are_checked_likewise(cell: Cell) -> None:
    path = Path(cell.folder, "metrics.eval.jsonl")
    first, last = path.read_text().splitlines(keepends=True)
    path.write_text(first + last[:20])
    run = read_run(cell.folder)
    assert run is not None
    assert [item.step for item in run.evaluations] == [20]
    path.write_text(first + first)
    expected = f"{path}, line 2: 1 problem\n  global_step: found 20 after 20; expected a later"
    assert problem(cell).startswith(expected)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "sleeping"}'])
def test_a_malformed_run_json_is_an_error_that_names_it(cell: Cell, text: str) -> None:
    path = Path(cell.folder, "run.json")
    path.write_text(text)
    assert problem(cell).startswith(f"{path}: ")


def test_losses_that_are_not_finite_are_missing(cell: Cell) -> None:
    # null is what our trainer writes; NaN is what other writers write.
    for word in ("null", "NaN", "-Infinity"):
        record = json.loads(metrics(cell).read_text().splitlines()[0])
        text = json.dumps(record | {"loss/out": "?"}).replace('"?"', word)
        metrics(cell).write_text(text + "\n")
        run = read_run(cell.folder)
        assert run is not None
        assert isnan(run.records[0].loss)


def test_the_wall_time_of_a_killed_run_ends_at_its_last_record(cell: Cell) -> None:
    run = read_run(cell.folder)
    assert run is not None
    assert run.wall_s == run.summary.attempts[0].wall_s
    attempt = json.loads(Path(cell.folder, "run.json").read_text())["attempts"][0]
    write_run(cell, attempts=[attempt | {"wall_s": None}])
    killed = read_run(cell.folder)
    assert killed is not None
    assert killed.wall_s == killed.records[-1].elapsed_s == pytest.approx(4.0 + 39 * 0.1)


@pytest.mark.parametrize(
    ("walls", "expected"), [((5.0, 20.0), 25.0), ((5.0, None), 7.9), ((None, 20.0), 7.9)]
)
def test_the_wall_time_is_that_of_all_attempts_if_each_is_known(
    cell: Cell, walls: tuple[float | None, ...], expected: float
) -> None:
    """Otherwise it is up to the last record, 7.9 s after the start of the run."""
    attempt = json.loads(Path(cell.folder, "run.json").read_text())["attempts"][0]
    attempts = [attempt | {"attempt": n, "wall_s": wall} for n, wall in enumerate(walls, 1)]
    write_run(cell, attempts=attempts)
    run = read_run(cell.folder)
    assert run is not None
    assert run.wall_s == pytest.approx(expected)


def test_a_stale_run_is_left_out_with_a_message(
    make_grid: MakeGrid, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = make_grid()
    write_run(grid[0])
    write_run(grid[1], fingerprint="0" * 16)
    left_out: dict[str, str] = {}
    assert [cell.name for cell, _ in each_run(grid, left_out)] == [grid[0].name]
    assert f"{grid[1].folder}: left out; the settings have changed" in capsys.readouterr().err
    assert left_out == {grid[1].name: "the settings have changed since the run"}


def test_a_completed_run_that_has_lost_records_is_left_out(
    make_grid: MakeGrid, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its table had the loss at step 20 as the last one, and no speed: records at 1, 10, ... 40."""
    grid = make_grid()
    write_run(grid[0])
    write_run(grid[1])
    path = metrics(grid[0])
    lines = path.read_text().splitlines(keepends=True)
    for kept, last in ((lines[:3], 20), ([], 0)):
        path.write_text("".join(kept))
        assert [cell.name for cell, _ in each_run(grid)] == [grid[1].name]
        told = f"ends at step {last}; expected step 40, as in run.json; restore the file, or delete"
        assert f"{path}: 1 problem\n  {told}" in capsys.readouterr().err
        assert find_damage(grid[0]).startswith(f"metrics.jsonl: {told}")
    path.unlink()
    assert "ends at step 0; expected step 40" in find_damage(grid[0])
    write_run(grid[0], status="running", outcome=None)
    path.write_text("".join(lines[:3]))  # goes on; run.json is read first
    assert [cell.name for cell, _ in each_run(grid)] == [grid[0].name, grid[1].name]
    assert find_damage(grid[0]) == ""


def test_the_last_record_may_be_of_a_single_step(make_grid: MakeGrid) -> None:
    """Of 41 steps with a record every 10: without it, the loss of step 40 would be the last."""
    cell = make_grid({"run": {"steps": 41}})[0]
    write_run(cell)
    assert find_damage(cell) == ""
    lines = metrics(cell).read_text().splitlines(keepends=True)
    metrics(cell).write_text("".join(lines[:-1]))
    assert "ends at step 40; expected step 41" in find_damage(cell)


def test_what_a_run_of_earlier_settings_has_lost_does_not_matter(
    make_grid: MakeGrid, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = make_grid()[0]
    write_run(cell, fingerprint="0" * 16)
    metrics(cell).unlink()
    assert find_damage(cell) == ""
    assert list(each_run(make_grid())) == []
    assert capsys.readouterr().err.endswith("; the settings have changed since the run\n")


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "metrics.eval.jsonl"])
def test_a_damaged_run_is_left_out_with_a_message(
    make_grid: MakeGrid, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = make_grid()
    for cell in grid[:3]:
        write_run(cell)
    path = Path(grid[1].folder, name)
    path.write_bytes(b'{"status": "\xff"}\n\n')
    assert [cell.name for cell, _ in each_run(grid)] == [grid[0].name, grid[2].name]
    error = capsys.readouterr().err
    assert str(path) in error
    assert error.endswith("; the run is left out\n")
    assert find_damage(grid[1]).startswith(name)


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.eval.jsonl"])
def test_a_file_that_may_not_be_read_is_damage(make_grid: MakeGrid, name: str) -> None:
    """A folder in its place, as root may read every file."""
    grid = make_grid()
    for cell in grid[:2]:
        write_run(cell)
    path = Path(grid[0].folder, name)
    path.unlink(missing_ok=True)
    path.mkdir()
    assert [cell.name for cell, _ in each_run(grid)] == [grid[1].name]
    assert find_damage(grid[0]) == f"{name}: cannot be read: Is a directory"


def test_an_unexpected_parameter_count_is_an_error(make_grid: MakeGrid) -> None:
    grid = make_grid()
    write_run(grid[0], params=123)
    with pytest.raises(ConfigError, match=r"params: found 123; expected .* for model 'tiny'"):
        list(each_run(grid))
