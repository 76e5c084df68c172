import pytest

from study.show.style import Style
from tests.study.conftest import MANY, MakeGrid


@pytest.mark.parametrize("changes", [{}, MANY])
def test_models_differ_in_colour(make_grid: MakeGrid, changes: dict) -> None:
    grid = make_grid(changes)
    style = Style.of(grid)
    models = {cell.model for cell in grid}
    assert set(style.colours) == models
    assert len({str(colour) for colour in style.colours.values()}) == len(models)
    assert list(style.sizes.values()) == sorted(style.sizes.values())
    assert len({str(line) for line in style.lines.values()}) == len({c.gpus for c in grid})
