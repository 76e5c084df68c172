"""The figures of the analyses; what they draw: tests/study/analysis/test_results.py."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from study.analysis.ablations import Difference
from study.analysis.catalogue import Results
from study.show import plot_analyses
from study.show.sheets import Sheet
from tests.study.show.drawn import draw_on_sheets, texts_beyond

WORSE = Difference(
    variant="base", model="", params=1_000_000, change="", seeds=2, loss=3.0, difference=0.01,
    base="activation swiglu, norm_type rmsnorm, pos_embed rope, n_kv_heads 8, tied",
    standard_error=0.01, low=-0.01, high=0.03, exceeds_noise=False, noise=0.01, degrees=3,
    loss_kind="held-out loss", note="",
)  # fmt: skip


def test_long_names_of_changes_leave_room_for_the_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [f"a-model-with-a-long-name-of-many-words-{n}" for n in (1, 2)]
    changes = [f"activation gelu, norm_type layernorm, pos_embed learned, {n}" for n in (1, 2, 4)]
    rows = [replace(WORSE, model=model, change=change) for model in models for change in changes]
    drawn: list[Figure] = []

    def write_figure(path: Path, draw: Callable[[Sheet], Figure]) -> list[Path]:
        drawn.extend(draw_on_sheets(draw))
        return []

    monkeypatch.setattr(plot_analyses, "write_figure", write_figure)
    plot_analyses.plot_analysis("ablations", Results(ablations=[rows]), tmp_path)
    assert len(drawn) == 2
    for figure in drawn:
        (ax,) = figure.axes
        assert ax.get_window_extent().width > 0.2 * figure.bbox.width
        assert texts_beyond(figure) == []
        legend = ax.get_legend()
        assert legend is not None
        texts = [text for text in ax.get_children() if isinstance(text, Text)]
        (title,) = [text for text in texts if text.get_text().startswith("Difference to")]
        assert not legend.get_window_extent().overlaps(title.get_window_extent())
