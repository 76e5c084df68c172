"""CSV as editors, spreadsheets and pandas save it."""

import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from study.csv_tables import parse_number, read_csv
from trainer.problems import ConfigError

PLAIN = "a,b,c\n1,two,3\n4,five,6\n"
ROWS = [{"a": "1", "b": "two", "c": "3"}, {"a": "4", "b": "five", "c": "6"}]


def cells(path: Path) -> list[dict[str, str]]:
    return [{name: row.text(name) for name in row.cells} for row in read_csv(path).rows]


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.rstrip("\n"),
        PLAIN + "\n",
        PLAIN.replace("4", "\n  \n4"),
        "\n\n" + PLAIN,
        "# comment\n" + PLAIN.replace("4", '# another, "one\n4'),
        PLAIN + ",,\n",
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace("\n", ",\n"),
        PLAIN.replace("\n", ",,\n"),
        "  # comment\n" + PLAIN,
        PLAIN.replace("a,", "a,,").replace("1,", "1,,").replace("4,", "4, ,"),
        PLAIN.replace(",", " , "),
        '"a","b","c"\n"1","two","3"\n"4","five","6"\n',
        PLAIN.replace("five", '"five"'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_people_save(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    assert cells(path) == ROWS


def test_quoted_newlines_and_comments_in_quotes(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('a,b\n1,"two\n# lines\n\nmore"\n2,x\n')
    first, second = read_csv(path).rows
    assert first.cells["b"] == "two\n# lines\n\nmore"
    assert first.text("b") == "two # lines more"
    assert (first.line, second.line) == (2, 6)


def test_a_delimiter_in_quotes_is_none(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('"a;b;c",d,e\n1,2,3\n')
    assert cells(path) == [{"a;b;c": "1", "d": "2", "e": "3"}]


def test_either_order_of_the_bytes_of_utf_16(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for encoding in ("utf-16-le", "utf-16-be"):
        path.write_bytes(f"\ufeff{PLAIN}".encode(encoding))
        assert cells(path) == ROWS


def test_a_pipe_is_read_from_its_first_byte() -> None:
    """As in `--losses <(zcat losses.csv.gz)`."""
    reader, writer = os.pipe()
    try:
        os.write(writer, PLAIN.encode())
        os.close(writer)
        assert cells(Path(f"/dev/fd/{reader}")) == ROWS
    finally:
        os.close(reader)


def test_short_rows_have_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b,c\n1\n")
    assert cells(path) == [{"a": "1", "b": "", "c": ""}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a,b\n1,2,3\n", "line 2: cell 3, '3', has no column; expected 2 cells"),
        (b"a,,b\n1,2,3\n", "line 2: cell 2, '2', has no column; expected 2 cells"),
        (b"a,b,a\n1,2,3\n", "line 1: column 'a' appears twice"),
        (b'a,b\n1,2\n\n3,"four\n5,6\n', "line 4: not valid CSV: unexpected end of data"),
        (b'a,b\n1,"2"x\n', "line 2: not valid CSV"),
        (b"a,b\n1,2\n3,\xfcber\n", "line 3: not UTF-8"),
        (b"\xff\xfea\x00,\x00b", "not UTF-8"),
        (b"a,b\n" + b"x" * 200_000 + b",1\n", "line 2: not valid CSV: field larger"),
    ],
)
def test_what_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_csv(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "comma", "semicolon"),
    [
        ("600000", 600_000.0, 600_000.0),
        ("600,000", 600_000.0, None),
        ("1,250,000.5", 1_250_000.5, 1_250_000.5),
        ("600000,5", None, 600_000.5),
        ("0,500", None, 0.5),
        ("600.000,5", None, 600_000.5),
        ("1.234.567", None, 1_234_567.0),
        ("12.5", 12.5, 12.5),
        ("1.250", 1.25, None),
        ("6e5", 600_000.0, 600_000.0),
        ("60,00", None, 60.0),
        *((text, None, None) for text in ("600_000", "600 000", "600k", "0x10", "nan", "inf", "")),
        *(
            (text, None, None)
            for text in ("9" * 501, "1e999", "-3", "0", "\u0663", "1,2,3", "1.2.3", "--1")
        ),
    ],
)
def test_numbers(tmp_path: Path, text: str, comma: float | None, semicolon: float | None) -> None:
    for delimiter, expected in ((",", comma), (";", semicolon)):
        path = tmp_path / "table.csv"
        path.write_text(f'a{delimiter}b\nx{delimiter}"{text}"\n', encoding="utf-8")
        (row,) = read_csv(path).rows
        if expected is None:
            with pytest.raises(ConfigError, match=r"line 2: b: "):
                row.number("b")
        else:
            assert row.number("b") == expected


@pytest.mark.parametrize(("text", "value"), [("8", 8), ("8.0", 8), ("1,024", 1024), ("8e0", 8)])
def test_whole_numbers(tmp_path: Path, text: str, value: int) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f'a\n"{text}"\n')
    assert read_csv(path).rows[0].whole("a") == value


@pytest.mark.parametrize("text", ["1.5", "0", "0.0", "1e300", "9223372036854775808", "many"])
def test_not_whole_numbers(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"a\n{text}\n")
    with pytest.raises(ConfigError, match=r"line 2: a: .*expected a whole number above 0"):
        read_csv(path).rows[0].whole("a")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_as_python_writes_it(value: float) -> None:
    assert parse_number(repr(value)) == value
    assert parse_number(f"{value:,.0f}") == float(f"{value:.0f}") or value < 1000


CELLS = st.text(
    st.characters(
        blacklist_categories=("Cs", "Cc", "Z"), blacklist_characters="#\ufeff"
    ),  # no white space, which is not kept, and no comments
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELLS, CELLS), max_size=5), st.sampled_from(",;\t"))
def test_what_the_csv_module_writes_is_read(
    tmp_path: Path, rows: list[tuple[str, str]], delimiter: str
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([("a", "b"), *rows])
    path = tmp_path / "table.csv"
    path.write_bytes(text.getvalue().encode())
    assert [tuple(row.values()) for row in cells(path)] == rows


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=60), st.text('a,;\t"\n\r# 1.5\0', max_size=40).map(str.encode)))
@example(b"")
@example(b'"')
@example(b"\xfe\xff")
def test_any_bytes_give_a_table_or_an_error_of_ours(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    try:
        table = read_csv(path)
    except ConfigError as error:
        assert str(path) in str(error)
        return
    for row in table.rows:
        assert tuple(row.cells) == table.columns
        assert any(row.cells.values())
