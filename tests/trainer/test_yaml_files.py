"""The YAML reader and writer: values of YAML 1.2, line numbers, and errors."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trainer.problems import ConfigError
from trainer.yaml_files import (
    dump_yaml,
    load_yaml,
    parse_assignment,
    parse_document,
    parse_yaml,
)


def read(text: str) -> Any:
    return parse_yaml(f"value: {text}\n", "file.yaml")["value"]


# From the tables of the YAML 1.2.2 specification, section 10.3.2, and what YAML 1.1 read otherwise.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e18", 1e18), ("3e-4", 3e-4), ("1E5", 1e5), ("6.02E+23", 6.02e23), ("-.5", -0.5)),
        *(("12.", 12.0), ("+1", 1), ("0", 0), ("-0", 0), ("1.", 1.0), (".inf", math.inf)),
        *(("-.Inf", -math.inf), ("0o17", 15), ("010", 10), ("-010", -10), ("0x1F", 31)),
        *(("true", True), ("False", False), ("TRUE", True), ("null", None), ("~", None)),
        *(("", None), ("1:30", "1:30"), ("190:20:30", "190:20:30"), ("1_000", "1_000")),
        *(("0b11", "0b11"), ("0o8", "0o8"), ("1e", "1e"), ("e5", "e5"), (".", "."), ("-", "-")),
        *((word, word) for word in ("yes", "no", "on", "off", "Yes", "NO", "y", "n", "tRue")),
        *(("2026-01-01", "2026-01-01"), ("=", "="), ("1.5.2", "1.5.2"), ("+.nan", "+.nan")),
        *(('"1"', "1"), ("'yes'", "yes"), ("!!float 5", 5.0), ("!!str 5", "5")),
    ],
)
def test_values_follow_yaml_1_2(text: str, value: object) -> None:
    if text == "-":
        text = '"-"'  # plain, it begins a list
    assert read(text) == value
    assert type(read(text)) is type(value)


@given(st.floats(allow_nan=False), st.sampled_from(["{!r}", "{:e}", "{:.17E}", "{:g}"]))
def test_a_float_is_read_in_every_notation(value: float, form: str) -> None:
    text = form.format(value).replace("inf", ".inf").replace("INF", ".INF")
    assert read(text) == float(form.format(value))


@given(st.integers(-(10**30), 10**30))
def test_an_integer_is_read_in_every_base(value: int) -> None:
    assert read(str(value)) == value
    assert read(f"{abs(value):#x}") == read(f"{abs(value):#o}") == abs(value)


# Strings from the characters of numbers, dates and YAML's own signs meet one of its rules often.
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
STRINGS = st.text(CHARACTERS) | st.text("0123456789.eE+-_:xo~<=!&*#")
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | STRINGS
    | st.sampled_from(["1e3", "yes", "off", "null", "0o17", "010", "1:30", "<<", "=", "2026-01-01"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(STRINGS, inner), max_leaves=8
)


@given(st.dictionaries(STRINGS, VALUES))
def test_what_is_written_reads_back_the_same(values: dict[str, Any]) -> None:
    again = parse_yaml(dump_yaml(values), "file.yaml") if values else {}
    assert again == values
    assert repr(again) == repr(values)  # 1, 1.0 and True are equal


@given(st.dictionaries(STRINGS, VALUES))
def test_other_readers_get_the_same_strings(values: dict[str, Any]) -> None:
    """Snakemake and people's scripts read study.yaml and run.yaml by PyYAML, as YAML 1.1."""
    assert yaml.safe_load(dump_yaml(values)) == values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", ["line 4: a.b: duplicate key; first given on line 2"]),
        ("a: {b: 1, b: 2}\n", ["line 1: a.b: duplicate key"]),
        ("a: 1\n'a': 2\nb: [{c: 1},\n {c: 1, c: 2}]\n", ["line 2: a: dup", "line 4: b[1].c: dup"]),
        ("10: a\n0xA: b\n", ["line 2: 10: duplicate key"]),
        ("a:\n  true: 1\n", ["line 2: a: found true as a key; expected a name, in quotes if"]),
        ("a: 1\n~: 2\n", ["line 2: found nothing as a key; expected a name"]),
        ("a: &x {b: *x}\n", ["a.b: found an alias of the mapping or list that contains it"]),
        ("a: !!int x\n", ["line 1, column 4: not valid YAML: 'x' is not of type int"]),
        ("a: !!bool yes\n", ["line 1, column 4: not valid YAML: 'yes' is not of type bool"]),
        ("a: !!timestamp 2026-01-01\n", ["line 1, column 4: not valid YAML: could not"]),
        (f"a: {'9' * 5000}\n", ["line 1, column 4: not valid YAML: '9999"]),
        ("a: 1\n---\nb: 2\n", ["line 2, column 1: not valid YAML: expected a single document in "]),
        ("a: [1\nb: 2\n", ["line 2, column 2: not valid YAML: "]),
        ("- a\n", ["expected a mapping of keys, found a list"]),
        ("", ["expected a mapping of keys, found nothing"]),
        ("a: 1\nb: \x07\n", ["line 2: not valid YAML: found the character U+0007"]),
        ('a: "b\\0"\n', ["line 1, column 4: not valid YAML: found the character U+0000"]),
        ('"a\\0": b\n', ["line 1, column 1: not valid YAML: found the character U+0000"]),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(text: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "file.yaml")
    assert caught.value.source == "file.yaml"
    for problem, start in zip(caught.value.problems, expected, strict=True):
        assert str(problem).startswith(start)


def test_one_anchor_may_be_used_many_times() -> None:
    lines = ["base: &base {x: 1}", *(f"l{n}: {{<<: *base, y: {n}}}" for n in range(500))]
    assert parse_yaml("\n".join(lines), "file.yaml")["l499"] == {"x": 1, "y": 499}


# Each level names the one before it twice; the text grows by a line, the tree doubles.
@pytest.mark.parametrize(
    "form", ["{{a: *l{0}, b: *l{0}}}", "{{<<: [*l{0}, *l{0}]}}", "[*l{0}, *l{0}]"]
)
def test_aliases_that_multiply_are_refused_at_once(form: str) -> None:
    levels = [f"l{n}: &l{n} {form.format(n - 1)}" for n in range(1, 60)]
    with pytest.raises(ConfigError, match="more than 200,000 values, with those that aliases"):
        parse_yaml("\n".join(["l0: &l0 {x: 1}", *levels]), "file.yaml")


@pytest.mark.parametrize(
    "text", ["a: &x [*x]", "a: &x {<<: *x}", "a: &x {<<: [{b: *x}]}", "&x {? *x : 1}"]
)
def test_a_group_inside_itself_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"an alias of the mapping or list|unhashable|recursive"):
        parse_yaml(text, "file.yaml")


def test_keys_have_line_numbers() -> None:
    document = parse_document(
        "# a comment\na: &x\n  b: 1\n  c:\n    - d\n    - {e: 2}\n\nf: {<<: *x, 40: 3}\ng: 4\n", "x"
    )
    lines = {
        ("a",): 2, ("a", "b"): 3, ("a", "c"): 4, ("a", "c", 0): 5, ("a", "c", 1, "e"): 6,
        ("f",): 8, ("f", "b"): 3, ("f", 40): 8, ("g",): 9,
        ("a", "missing"): 2, ("a", "c", 1, "missing"): 6, ("a", "c", 7): 4, ("missing",): None,
    }  # fmt: skip
    assert {path: document.line(path) for path in lines} == lines


def test_command_line_values_are_yaml() -> None:
    assert parse_assignment("optim.lr=3e-4") == ("optim.lr", 3e-4)
    assert parse_assignment("note=a=b") == ("note", "a=b")
    assert parse_assignment("run={steps: 010, 'x': yes}") == ("run", {"steps": 10, "x": "yes"})
    assert parse_assignment("eval=") == ("eval", None)
    for wrong in ("steps", "=5", "run={a: 1, a: 2}", "a=[", "a=!!int x"):
        with pytest.raises(ConfigError, match="command line: 1 problem"):
            parse_assignment(wrong)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    for name, reason in (("none.yaml", "No such file"), ("latin.yaml", "not UTF-8"), (".", "Is a")):
        with pytest.raises(ConfigError, match=rf"{name}: 1 problem\n  cannot be read: {reason}"):
            load_yaml(tmp_path / name)
