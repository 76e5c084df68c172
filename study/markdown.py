"""Tables in Markdown."""

from collections.abc import Sequence

from tabulate import tabulate


def markdown_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], align: Sequence[str] | None = None
) -> str:
    """Return an aligned table; a `|` or a line break in a cell does not end the cell."""
    cells = [[_escape(cell) for cell in row] for row in rows]
    titles = [_escape(heading) for heading in headings]
    return tabulate(cells, titles, "pipe", disable_numparse=True, colalign=align)


def _escape(cell: str) -> str:
    return " ".join(cell.splitlines()).replace("|", "\\|")
