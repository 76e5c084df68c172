"""Files as they are written, and rows of tables as they are read back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from study.files import append_lines, parse_row, to_csv, write_csv_and_markdown, write_file


@dataclass(frozen=True)
class Row:
    """A row with a column of each type."""

    name: str
    count: int
    share: float
    known: bool
    kind: Literal["a", "b"]
    steps: int | None = None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "new\n"),
        ("", "new\n"),
        ("one\ntwo\n", "one\ntwo\nnew\n"),
        ("one\ntwo", "one\nnew\n"),
        ("one", "new\n"),
    ],
)
def test_lines_are_appended_to_whole_ones(tmp_path: Path, before: str | None, after: str) -> None:
    path = tmp_path / "lines"
    if before is not None:
        path.write_text(before)
    append_lines(path, "new\n")
    assert path.read_text() == after


def test_a_file_is_replaced_and_its_folder_created(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "table.csv"
    for content in ("one", b"two"):
        write_file(path, content)
    assert path.read_bytes() == b"two"


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="a folder; expected a file, or a path that is free"):
        write_file(tmp_path, "text")
    with pytest.raises(FileExistsError, match="not a regular file; expected a file"):
        write_file(Path("/dev/null"), "text")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(NotADirectoryError, match=r"a file; expected a folder: '.*/file'"):
        write_file(tmp_path / "file" / "table.csv", "text")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_table_has_seven_digits_and_empty_cells(tmp_path: Path) -> None:
    rows = [
        Row("x, y", 10_000_000, 1 / 3, True, "a"),
        Row("", -1, 123_456_789.0, False, "b", steps=0),
    ]
    text = (
        "name,count,share,known,kind,steps\n"
        '"x, y",10000000,0.3333333,True,a,\n'
        ",-1,1.234568e+08,False,b,0\n"
    )
    assert to_csv(rows, Row) == text
    write_csv_and_markdown(tmp_path / "table.csv", rows, Row, "for people\n")
    assert (tmp_path / "table.csv").read_text() == text
    assert (tmp_path / "table.md").read_text() == "for people\n"


LINE = {"name": "x", "count": "3", "share": "0.5", "known": "False", "kind": "b", "steps": ""}


def test_a_row_is_read_back_with_its_types() -> None:
    assert parse_row(Row, LINE) == Row("x", 3, 0.5, False, "b", None)
    assert parse_row(Row, LINE | {"known": "True", "steps": "7"}) == Row("x", 3, 0.5, True, "b", 7)
    assert parse_row(Row, {key: LINE[key] for key in LINE if key != "steps"}).steps is None
    assert parse_row(Row, LINE | {"name": ""}).name == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"count": "3.5"}, "count: '3.5'; expected a whole number"),
        ({"count": ""}, "count: ''; expected a whole number"),
        ({"share": "nan"}, "share: 'nan'; expected a number"),
        ({"share": "-inf"}, "share: '-inf'; expected a number"),
        ({"share": ""}, "share: ''; expected a number"),
        ({"known": "true"}, "known: 'true'; expected True or False"),
        ({"kind": "c"}, "kind: 'c'; expected a or b"),
        ({"steps": "x"}, "steps: 'x'; expected a whole number"),
    ],
)
def test_a_cell_of_another_type_is_named(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{expected}$"):
        parse_row(Row, LINE | change)
