"""Figures of the throughput table that suit any grid: variants and trainers beside their base, and
MFU."""

import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from study.grid import Grid
from study.kinds import name_kind, names_trainers
from study.measure.throughput_table import IMPOSSIBLE, mark_of, settled, settled_seeds
from study.show.legend import LETTER, TITLE_LETTER, fill_below
from study.show.sheets import Sheet, cut_middle, empty_figure, write_figure
from study.show.style import IDEAL, Style

SPEED = "tokens_per_s_per_gpu"

MOST_BARS = 60
"""Most bars of a figure; with more, those that differ most from their base are drawn."""

MARGINS = 0.2
"""Beside a panel and the labels of its lines, inches."""

BESIDE = 0.4
"""Width of a number beside a bar, inches."""

NUMBER = 4.5 * LETTER
"""Least width of a column of numbers, inches."""

ABOVE_PEAK = "above 100%: peak_tflops is not that of the GPU used"


def plot_tables(grid: Grid, table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the speed of the variants and trainers, and the MFU; return the files written.

    `table` is a throughput table. Writes variants and mfu to `folder`, in all forms.
    """
    names = _kinds(grid)
    ratios = variant_ratios(grid, table)
    if ratios.empty:
        draw = partial(empty_figure, _why_no_ratios(table))
    else:
        draw = partial(_draw_variants, Style.of(grid), names, ratios)
    paths = write_figure(folder / "variants", draw)
    known = settled_seeds(table[table["mfu"].notna()])
    if known.empty:
        draw = partial(empty_figure, "No MFU is known: no measured cluster states `peak_tflops`.")
    else:
        draw = partial(_draw_mfu, Style.of(grid), names, known)
    return paths + write_figure(folder / "mfu", draw)


def _kinds(grid: Grid) -> dict[str, str]:
    """Return variant, with its trainer as in a cell's name -> what it is called in figures."""
    with_trainer = names_trainers(grid)
    return {cell.variant: name_kind(cell, with_trainer) for cell in grid}


def variant_ratios(grid: Grid, table: pd.DataFrame) -> pd.DataFrame:
    """Return the speed of each variant over that of its base, at the same model and GPU count.

    Here a variant includes its trainer. The base is `base`, which is ours, or without one the first
    variant of the grid. Variants of equal speed settings, such as two learning rates, are repeats
    of the first of them. A run that diverged counts only if all its repeats did. Columns: cluster,
    model, gpus, variant, base, and ratio, of the medians over seeds and repeats.
    """
    order = dict.fromkeys(["base", *(cell.variant for cell in grid)])
    known = table[table[SPEED].notna()]
    rows = []
    for (cluster, model, gpus), group in known.groupby(["cluster", "model", "gpus"], sort=False):
        # An older table may lack the key.
        keys = group["trainer"] + group["speed_key"].fillna(group["variant"])
        group = settled(group, keys)
        keys = keys[group.index]
        first = {key: name for name in reversed(order) for key in keys[group["variant"] == name]}
        measured = keys.map(first)
        speeds = group.groupby(measured)[SPEED].median()
        variants = [name for name in order if name in speeds.index]
        base = variants[0]
        rows += [
            (cluster, model, gpus, name, base, speeds[name] / speeds[base]) for name in variants[1:]
        ]
    return pd.DataFrame(rows, columns=["cluster", "model", "gpus", "variant", "base", "ratio"])


def _why_no_ratios(table: pd.DataFrame) -> str:
    """Return why `variant_ratios` has no row."""
    known = table[table[SPEED].notna()]
    variants = known.groupby(["cluster", "model", "gpus"])["variant"].nunique()
    if (variants > 1).any():
        return "No measured variant can differ in speed from its base."
    return "No measured cell has another variant as its base."


def _draw_variants(
    style: Style, kinds: dict[str, str], ratios: pd.DataFrame, sheet: Sheet
) -> Figure:
    total = len(ratios)
    if total > MOST_BARS:
        kept = (np.log(ratios["ratio"]).abs()).nlargest(MOST_BARS).index
        ratios = ratios.loc[sorted(kept)]
    figure = Figure(figsize=(sheet.width, 1.0 + 0.19 * len(ratios)))
    ax = figure.subplots()
    places = np.arange(len(ratios))
    ax.barh(
        places, ratios["ratio"] - 1, left=1, color=[style.colours[name] for name in ratios["model"]]
    )
    ax.axvline(1, color=IDEAL, linewidth=1)
    many = ratios["cluster"].nunique() > 1
    names = [
        f"{kinds[str(row.variant)]}: {f'{row.cluster}/' if many else ''}{row.model}/{row.gpus}"
        for row in ratios.itertuples()
    ]
    labels = sheet.shorten(names)
    ax.set_yticks(places, labels)
    ax.set_ylim(len(ratios) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    for place, ratio in zip(places, ratios["ratio"], strict=True):
        ax.annotate(
            f"x{ratio:.3g}", (ratio, place), (3 if ratio >= 1 else -3, 0), va="center",
            textcoords="offset points", ha="left" if ratio >= 1 else "right", fontsize=6.5,
        )  # fmt: skip
    # At least 5% to either side, which no noise fills; room for the numbers beside the bars.
    low, high = min(0.95, ratios["ratio"].min()), max(1.05, ratios["ratio"].max())
    panel = sheet.width - LETTER * max(map(len, labels)) - MARGINS
    room = BESIDE / max(panel - 2 * BESIDE, BESIDE) * (high - low)
    ax.set_xlim(low - room, high + room)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))  # with x1 among them
    ax.xaxis.set_major_formatter("x{x:.3g}")
    bases = ", ".join(kinds[name] for name in ratios["base"].unique())
    part = f" ({len(ratios)} of {total})" if len(ratios) < total else ""
    ax.set_xlabel(fill_below(sheet, labels, f"Tokens/s/GPU over that of {bases}{part}"))
    return figure


def _draw_mfu(style: Style, kinds: dict[str, str], table: pd.DataFrame, sheet: Sheet) -> Figure:
    clusters = list(table["cluster"].unique())
    names = _mfu_names(kinds, table, sheet)
    # Beside each other, panels leave their numbers room between short names.
    longest = max(map(len, names.values()))
    columns = max(1, min(sheet.columns, len(clusters), 52 // longest))
    rows = -(-len(clusters) // columns)
    labels = LETTER * longest
    room = max(12, int((sheet.width / columns - labels - MARGINS) / TITLE_LETTER))
    lines = [_heat_map(style, table[table["cluster"] == name]) for name in clusters]
    height = max(len(heat) for heat in lines)
    figure = Figure(figsize=(sheet.width, rows * (1.1 + 0.24 * height)))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    highest = table["mfu"].max()
    for ax, name, heat in zip(panels, clusters, lines, strict=False):
        _shade(ax, names, heat, highest, room)
        title = f"{name}: MFU (%)"
        ax.set_title(title if len(title) <= room else f"{cut_middle(name, room)}:\nMFU (%)")
    for ax in panels[len(clusters) :]:
        ax.remove()
    return figure


def _heat_map(style: Style, table: pd.DataFrame) -> pd.DataFrame:
    """Return the median MFU: a line for each model and variant, a column for each GPU count."""
    heat = table.pivot_table(
        index=["model", "variant"], columns="gpus", values="mfu", aggfunc="median"
    )
    models, variants = list(style.sizes), list(style.markers)
    order = sorted(heat.index, key=lambda key: (models.index(key[0]), variants.index(key[1])))
    return heat.loc[order]


def _mfu_names(
    kinds: dict[str, str], table: pd.DataFrame, sheet: Sheet
) -> dict[tuple[str, str], str]:
    """Return model and variant -> what their line is called."""
    lines = table[["model", "variant"]].drop_duplicates().itertuples(index=False, name=None)
    names = {
        (model, variant): model if kinds[variant] == "base" else f"{model}, {kinds[variant]}"
        for model, variant in lines
    }
    return dict(zip(names, sheet.shorten(names.values()), strict=True))


def _shade(
    ax: Axes, names: dict[tuple[str, str], str], heat: pd.DataFrame, highest: float, room: int
) -> None:
    values = heat.to_numpy(dtype=float)
    # Level numbers of many GPU counts would run into each other.
    turned = 90 if room * TITLE_LETTER < NUMBER * len(heat.columns) else 0
    ax.imshow(values, cmap="cividis", vmin=0, vmax=highest, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value < 0.6 * highest else "black"
            text = f"{100 * value:.3g}{mark_of(value)}"
            look: Any = {"color": colour, "fontsize": 7, "rotation": turned}
            ax.text(x, y, text, ha="center", va="center", **look)
    counts = [str(count) for count in heat.columns]
    ax.set_xticks(range(len(counts)), counts, rotation=turned)
    ax.set_yticks(range(len(heat)), [names[line] for line in heat.index])
    note = textwrap.wrap(f"{IMPOSSIBLE} {ABOVE_PEAK}", room) if np.nanmax(values) > 1 else []
    ax.set_xlabel("\n".join(["GPU count", *note]))
    ax.grid(visible=False)
