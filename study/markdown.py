"""Tables in Markdown."""

from collections.abc import Sequence

SIDES = {"left": ("<", ":{}-"), "right": (">", "-{}:")}
"""Alignment -> its sign in a format, and the rule under a heading, of which {} are dashes."""


def markdown_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], align: Sequence[str] | None = None
) -> str:
    """Return an aligned table; a `|` or a line break in a cell does not end the cell.

    `align` has `left` or `right` for each column; without it, all are left-aligned.
    """
    lines = [[_escape(cell) for cell in row] for row in (headings, *rows)]
    sides = align or ["left"] * len(headings)
    places, rules = [], []
    for side, column in zip(sides, zip(*lines, strict=True), strict=True):
        sign, rule = SIDES[side]
        width = max(len(column[0]) + 2, *map(len, column))
        places.append(f"{{:{sign}{width}}}")
        rules.append(rule.format("-" * width))
    template = f"| {' | '.join(places)} |"
    titles, *body = [template.format(*cells) for cells in lines]
    return "\n".join([titles, f"|{'|'.join(rules)}|", *body])


def _escape(cell: str) -> str:
    return " ".join(cell.splitlines()).strip().replace("|", "\\|")
