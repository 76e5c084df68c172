"""The final loss of a run, worked by hand."""

from collections.abc import Callable

import pytest

from study.measure.losses import TRAINING, VALIDATION, FinalLoss, choose_loss, final_losses
from tests.study.conftest import MakeGrid, make_summary, write_run


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        pytest.param(lambda step: float(step), 38.5, id="the median at 37, 38, 39 and 40"),
        pytest.param(lambda step: 99.0 if step == 40 else 1.0, 1.0, id="a spike does not count"),
        pytest.param(lambda step: None if step == 38 else float(step), 39.0, id="one is unknown"),
        # a tenth of 39 steps: after 35.1
        pytest.param(lambda step: None if step == 40 else float(step), 37.5, id="the last is"),
    ],
)
def test_the_training_loss_is_that_of_the_last_tenth(
    make_grid: MakeGrid, loss: Callable[[int], float | None], expected: float
) -> None:
    grid = make_grid({"run": {"logging": {"freq": 1}}})
    write_run(grid[0], loss=loss, loss_validation=None)
    write_run(grid[1], loss=loss, outcome="diverged")
    write_run(grid[2], loss=lambda step: None)
    write_run(grid[3], loss=loss, status="running", outcome=None)
    ((cell, final),) = final_losses(grid)
    assert (cell.name, final) == (grid[0].name, FinalLoss(None, expected))


def test_a_validation_before_the_end_gives_no_final_loss(make_grid: MakeGrid) -> None:
    """Of 40 steps; another trainer may evaluate every 30."""
    grid = make_grid()
    for cell, step in zip(grid, (30, 40), strict=False):
        write_run(cell, loss=lambda step: 2.0, evaluations={step: 1.6}, loss_validation=1.6)
    assert [loss for _, loss in final_losses(grid)] == [FinalLoss(None, 2.0), FinalLoss(1.6, 2.0)]


def test_all_runs_are_compared_by_one_kind_of_loss(make_grid: MakeGrid) -> None:
    """The held-out loss, unless a run lacks it. A cell without a run does not matter."""
    first, second, missing, _ = make_grid()
    losses = {first.name: FinalLoss(1.1, 1.0), second.name: FinalLoss(2.2, 2.0)}
    cells = (first, second, missing)
    assert choose_loss(cells, losses) == ({first.name: 1.1, second.name: 2.2}, VALIDATION)
    losses[second.name] = FinalLoss(None, 2.0)
    assert choose_loss(cells, losses) == ({first.name: 1.0, second.name: 2.0}, TRAINING)
    assert choose_loss([first], losses) == ({first.name: 1.1}, VALIDATION)


def test_losses_of_text_that_has_changed_since_are_left_out(
    make_grid: MakeGrid, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run is older than the first; of the others, no text with its name is known."""
    grid = make_grid()
    contents = ({"python_stdlib": "new"}, {"python_stdlib": "old"}, None, {"other": "text"})
    for cell, content, hour in zip(grid, contents, (3, 1, 7, 6), strict=True):
        start = f"2026-01-02T0{hour}:00:00+00:00"
        attempts = [{**make_summary(cell, 4.0, 9.0)["attempts"][0], "start": start}]
        write_run(cell, content=content, attempts=attempts)
    first, old, *others = grid
    assert [cell for cell, _ in final_losses(grid)] == [first, *others]
    said = f"{old.folder}: loss left out; its text is not that of {first.name}\n"
    assert capsys.readouterr().err == said
