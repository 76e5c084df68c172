"""The time table in the user's own file, whose other bytes do not change."""

import os
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.estimate.estimate import Estimate
from study.estimate.time_table import to_markdown
from study.show.document import check_document, markers, update_document, with_table
from tests.study.conftest import GUIDE, MakeGrid
from trainer.problems import ConfigError

FACTS = {
    "cluster": "miso",
    "params": 27_535_872,
    "tokens_per_step": 131_072,
    "steps": 500,
    "seconds": 149.0,
    "seconds_low": 130.0,
    "seconds_high": 170.0,
    "basis": "Verified",
    "method": "measured",
    "variant": "base",
    "gpu_name": "H200",
    "horizon": "500 steps",
    "tokens": 65_536_000,
    "currency": "USD",
    "trainer": "ours",
}
REST = {field.name: None for field in fields(Estimate)}
ESTIMATES = [Estimate(**{**REST, **FACTS, "model": "nano", "gpus": gpus}) for gpus in (1, 8)]
BEGIN, END = (marker.decode() for marker in markers("demo"))


def test_a_fifo_is_no_document(tmp_path: Path) -> None:
    """Reading it waited forever."""
    os.mkfifo(tmp_path / "guide.md")
    with pytest.raises(ConfigError, match="found a FIFO; expected a file"):
        update_document(tmp_path / "guide.md", "demo", ESTIMATES)


@given(st.binary(), st.binary(), st.binary(), st.booleans())
def test_bytes_outside_the_markers_do_not_change(
    before: bytes, between: bytes, after: bytes, crlf: bool
) -> None:
    newline = b"\r\n" if crlf else b"\n"
    begin, end = markers("demo")
    content = before + begin + newline + between + end + after
    found = with_table(content, Path("guide.md"), "demo", ESTIMATES)
    assert found.startswith(before + begin + newline)
    assert found.endswith(newline + end + after)
    table = found[len(before + begin) : len(found) - len(end + after)]
    assert table.replace(b"\r\n", b"\n").strip().decode() == to_markdown(ESTIMATES).strip()
    assert (b"\r\n" in table) == crlf
    assert with_table(found, Path("guide.md"), "demo", ESTIMATES) == found


def test_a_document_is_updated_once_and_checked(tmp_path: Path) -> None:
    guide, link = tmp_path / "guide.md", tmp_path / "link.md"
    guide.write_text(f"# Cluster\n\n{BEGIN}\nold\n{END}\nlast line without an end")
    guide.chmod(0o640)
    link.symlink_to(guide)
    with pytest.raises(ConfigError, match="time table of study 'demo' is out of date"):
        check_document(link, "demo", ESTIMATES)
    assert update_document(link, "demo", ESTIMATES)
    check_document(link, "demo", ESTIMATES)
    text = guide.read_text()
    assert "| nano" in text
    assert "old" not in text
    assert text.endswith("last line without an end")
    assert link.is_symlink()
    assert guide.stat().st_mode & 0o777 == 0o640
    before = guide.stat().st_mtime_ns
    assert not update_document(link, "demo", ESTIMATES)
    assert guide.stat().st_mtime_ns == before


def test_two_studies_each_keep_their_table() -> None:
    content = b"\n".join([*markers("demo"), *markers("other")])
    found = with_table(content, Path("guide.md"), "demo", ESTIMATES)
    assert found.endswith(b"\n".join(markers("other")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", f"{BEGIN} occurs 0 times"),
        (f"{BEGIN}\n", f"{END} occurs 0 times"),
        (f"{BEGIN}\n{BEGIN}\n{END}\n", f"{BEGIN} occurs 2 times"),
        (f"\n{END}\n{BEGIN}\n", f"line 2: {END} precedes {BEGIN}"),
        (f"{markers('x')[0].decode()}\n{END}", f"{BEGIN} occurs 0 times"),
    ],
)
def test_each_marker_has_to_occur_once(tmp_path: Path, text: str, message: str) -> None:
    guide = tmp_path / "guide.md"
    guide.write_text(text)
    with pytest.raises(ConfigError) as caught:
        update_document(guide, "demo", ESTIMATES)
    assert message in str(caught.value)
    assert str(guide) in str(caught.value)
    assert guide.read_text() == text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"guide\.md: 1 problem\s+cannot be read: No such file"):
        update_document(tmp_path / "guide.md", "demo", ESTIMATES)


def test_a_link_to_itself_is_named(tmp_path: Path) -> None:
    link = tmp_path / "guide.md"
    link.symlink_to(link)
    with pytest.raises(ConfigError, match=r"guide\.md: 1 problem\s+cannot be read: Too many level"):
        update_document(link, "demo", ESTIMATES)


def test_another_document_makes_no_table_again(make_grid: MakeGrid) -> None:
    """Tables and figures are made of study.yaml."""
    texts = {make_grid({**GUIDE, "document": file}).study.to_yaml() for file in (None, "a.md")}
    assert len(texts) == 1
