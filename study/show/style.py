"""The look of a study's figures: what colour, line style and marker stand for, the same in all.

Colour shows the model, by size; line style the GPU count, or in figures over GPU counts the
trainer; marker the variant and trainer.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib import rc_params_from_file

from study.grid import Grid
from study.show.sheets import STYLE
from study.trainers import DEFAULT_TRAINER

PALETTE = tuple(rc_params_from_file(STYLE)["axes.prop_cycle"].by_key()["color"])
"""The colours of the style."""

STYLES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (10, 3)), (0, (1, 3)))
"""Line styles of the GPU counts, in ascending order, or of the trainers."""

MARKERS = "osD^vP*X"
"""Markers of the variants; the first is for `base`."""

IDEAL = "#888888"
"""Colour of reference lines."""

Size = TypeVar("Size")


@dataclass(frozen=True)
class Style:
    """The look of each model, GPU count and variant, the same in all figures of a study."""

    colours: dict[str, Any]
    """Model -> colour, by ascending size."""
    lines: dict[int, Any]
    """GPU count -> line style, in ascending order."""
    markers: dict[str, str]
    """Variant -> marker, `base` first."""
    trainers: dict[str, Any]
    """Trainer -> line style, ours first."""
    sizes: dict[str, int]
    """Model -> parameters."""

    @classmethod
    def of(cls, grid: Grid) -> "Style":
        """Return the style of a study's cells."""
        by_size = sorted(((cell.model, cell.params) for cell in grid), key=lambda item: item[1])
        sizes = dict(by_size)
        gpus = sorted({cell.gpus for cell in grid})
        variants = dict.fromkeys(["base", *(cell.variant for cell in grid)])
        trainers = dict.fromkeys([DEFAULT_TRAINER, *(cell.trainer for cell in grid)])
        return cls(
            colours=colours(sizes),
            lines={count: STYLES[i % len(STYLES)] for i, count in enumerate(gpus)},
            markers={name: MARKERS[i % len(MARKERS)] for i, name in enumerate(variants)},
            trainers={name: STYLES[i % len(STYLES)] for i, name in enumerate(trainers)},
            sizes=sizes,
        )

    def width(self, gpus: int) -> float:
        """Return the width of a line, points: where losses coincide, those of fewer GPUs, drawn
        first, are still to be seen beside the others."""
        return max(1.2, 3.0 - 0.9 * list(self.lines).index(gpus))


def colours(sizes: Collection[Size]) -> dict[Size, Any]:
    """Return the colour of each model size, given in ascending order."""
    if len(sizes) <= len(PALETTE):
        return dict(zip(sizes, PALETTE, strict=False))
    # Too many to tell apart by hue: dark to light by size.
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.92, len(sizes)))
    return dict(zip(sizes, shades, strict=True))
