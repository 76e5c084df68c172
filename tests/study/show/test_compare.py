"""The figure of a comparison; its table: tests/study/measure/test_comparison.py."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from study.measure.comparison import Difference
from study.show import compare
from study.show.sheets import Sheet
from tests.study.show.drawn import draw_on_sheets, texts_beyond

FASTER = Difference(
    cell="", base="results/base", other="", runs="1, 1", base_speed=100.0, other_speed=110.0,
    speed_ratio=1.1, speed_noise=0.02, speed_degrees=3, speed="faster", memory_ratio=None,
    loss_kind="", base_loss=None, other_loss=None, loss_difference=None, loss_noise=None,
    loss_degrees=0, loss="", note="",
)  # fmt: skip
CELLS = [
    f"a-cluster-of-the-university/a-model-with-a-long-name-{model}/gpus-{gpus}/a-long-variant"
    for model in ("one", "two")
    for gpus in (1, 8)
]
STUDIES = ["../results/a-study-of-other-things-with-a-long-name", "results/another-long-name"]


@pytest.mark.parametrize("others", [STUDIES, STUDIES[:1]])
def test_long_names_leave_room_for_the_panel(
    others: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []

    def write_figure(path: Path, draw: Callable[[Sheet], Figure]) -> list[Path]:
        drawn.extend(draw_on_sheets(draw))
        return []

    monkeypatch.setattr(compare, "write_figure", write_figure)
    rows = [replace(FASTER, cell=cell, other=other) for cell in [*CELLS, ""] for other in others]
    compare.plot(rows, tmp_path / "compared")
    assert len(drawn) == 2
    for figure in drawn:
        (ax,) = figure.axes
        names = [text.get_text() for text in ax.get_yticklabels()]
        assert len({*names}) == len(CELLS) + 1 and names[-1] == "all cells"
        assert ax.get_window_extent().width > 0.2 * figure.bbox.width
        assert texts_beyond(figure) == []
