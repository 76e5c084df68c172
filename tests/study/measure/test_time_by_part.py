from pathlib import Path

import pytest

from study.measure.run_files import read_run
from study.measure.time_by_part import PARTS, time_by_part
from tests.study.conftest import MakeGrid, make_record, write_lines, write_run


def test_the_time_of_a_run_by_part(make_grid: MakeGrid) -> None:
    cell = make_grid()[0]
    write_run(
        cell,
        attempts=[
            {
                "attempt": n,
                "start": "2026-01-01T00:00:00+00:00",
                "wall_s": wall_s,
                "fingerprint": cell.fingerprint,
                "startup": {"imports_s": 1.0, "compile_s": compile_s, "total_s": total_s},
            }
            for n, wall_s, compile_s, total_s in [(1, 20.0, 2.0, 5.0), (2, 10.0, 1.0, 4.0)]
        ],
    )
    records = [
        # Attempt 1: its first step is part of the start-up; 4 steps of 0.5 s, of which 0.3 s data.
        {**make_record(cell, 1, 1, 3.0, 5.0, 5.0), "time/data_s": 9.0},
        {**make_record(cell, 5, 4, 0.5, 8.0, 4.0), "time/data_s": 0.3, "time/checkpoint_s": 0.7},
        # Attempt 2, likewise.
        {**make_record(cell, 6, 1, 3.0, 12.0, 4.0), "attempt": 2, "time/eval_s": 0.25},
        {**make_record(cell, 8, 2, 1.0, 14.0, 4.0), "attempt": 2, "time/eval_s": 0.5},
    ]
    write_lines(Path(cell.folder, "metrics.jsonl"), records)
    run = read_run(cell.folder)
    assert run is not None
    parts = time_by_part(run)
    expected = [6.0, 3.0, 3.7, 0.3, 0.7, 0.75, 30 - 14.45]
    assert parts == pytest.approx(dict(zip(PARTS, expected, strict=True)))


@pytest.mark.parametrize("wall_s", [None, 3.0], ids=["killed", "failed"])
def test_the_parts_of_a_run_without_a_first_step_are_not_known(
    make_grid: MakeGrid, wall_s: float | None
) -> None:
    cell = make_grid()[0]
    attempt = {"attempt": 1, "start": "2026-01-01T00:00:00+00:00", "fingerprint": cell.fingerprint}
    attempt["wall_s"] = wall_s
    write_run(cell, status="running", attempts=[attempt])
    Path(cell.folder, "metrics.jsonl").unlink()
    run = read_run(cell.folder)
    assert run is not None
    assert time_by_part(run) is None


def test_an_attempt_that_ended_before_its_first_step_leaves_no_part_below_zero(
    make_grid: MakeGrid,
) -> None:
    """Attempt 1 compiled for 50 s and was killed; attempt 2 started up in 4 s."""
    cell = make_grid()[0]
    starts = [{"compile_s": 50.0}, {"compile_s": 1.0, "total_s": 4.0}]
    write_run(
        cell,
        attempts=[
            {
                "attempt": n,
                "start": "2026-01-01T00:00:00+00:00",
                "wall_s": 60.0,
                "fingerprint": cell.fingerprint,
                "startup": startup,
            }
            for n, startup in enumerate(starts, 1)
        ],
    )
    run = read_run(cell.folder)
    assert run is not None
    parts = time_by_part(run)
    assert parts is not None
    assert (parts["start-up"], parts["compile"]) == (3.0, 51.0)
    assert min(parts.values()) >= 0
    assert sum(parts.values()) == pytest.approx(120.0)


def test_a_stopped_and_resumed_run_has_all_its_steps(make_grid: MakeGrid) -> None:
    """Attempt 1 stops 3 steps after its last record; the next record is 7 steps later."""
    cell = make_grid()[0]
    stopped = {"steps_s": 3.0, "data_s": 0.5, "checkpoint_s": 2.0, "eval_s": 0.0}
    ended = {"steps_s": 0.0, "data_s": 0.0, "checkpoint_s": 1.0, "eval_s": 4.0}
    write_run(
        cell,
        attempts=[
            {
                "attempt": n,
                "start": "2026-01-01T00:00:00+00:00",
                "wall_s": 25.0,
                "fingerprint": cell.fingerprint,
                "startup": {"imports_s": 4.0, "first_step_s": 1.5, "total_s": 5.5},
                "unrecorded": unrecorded,
            }
            for n, unrecorded in ((1, stopped), (2, ended))
        ],
    )
    records = [
        make_record(cell, 1, 1, 1.5, 5.5, 5.0),
        make_record(cell, 10, 9, 1.0, 14.5, 4.0),
        {**make_record(cell, 20, 7, 8.5 / 7, 30.0, 4.0), "attempt": 2, "time/data_s": 0.25},
    ]
    write_lines(Path(cell.folder, "metrics.jsonl"), records)
    run = read_run(cell.folder)
    assert run is not None
    parts = time_by_part(run)
    steps_s = 9 + 3 + (8.5 - 1.5)
    expected = [11.0, 0.0, steps_s - 0.75, 0.75, 3.0, 4.0, 50 - (11 + steps_s + 3 + 4)]
    assert parts == pytest.approx(dict(zip(PARTS, expected, strict=True)))


def test_clocks_that_contradict_each_other_leave_no_part_below_zero(make_grid: MakeGrid) -> None:
    """The first step took longer than its interval, and start-up and steps than the whole run."""
    cell = make_grid()[0]
    attempt = {
        "attempt": 1,
        "start": "2026-01-01T00:00:00+00:00",
        "wall_s": 5.0,
        "fingerprint": cell.fingerprint,
        "startup": {"first_step_s": 3.5, "total_s": 4.0},
    }
    write_run(cell, attempts=[attempt])
    records = [make_record(cell, 1, 1, 3.0, 4.0, 5.0), make_record(cell, 5, 4, 0.5, 6.0, 4.0)]
    write_lines(Path(cell.folder, "metrics.jsonl"), records)
    run = read_run(cell.folder)
    assert run is not None
    parts = time_by_part(run)
    expected = [4.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    assert parts == pytest.approx(dict(zip(PARTS, expected, strict=True)))
