"""What is read of a log while another program writes it."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from study.jobs import log_follower
from study.jobs.log_follower import FileFollower, Line, LineBuffer

CLOCK = time.monotonic


def texts(lines: Sequence[Line]) -> list[str]:
    return [line.text for line in lines]


def test_a_line_came_when_the_last_of_its_text_did(tmp_path: Path) -> None:
    """Not when its end came: a progress bar begins a line with what ends the one before."""
    moments = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    buffer = LineBuffer(lambda: next(moments))
    assert buffer.feed(b"one\ntw") == [Line("one", 1.0)]
    assert buffer.feed(b"o") == []
    assert buffer.feed(b"\rthree") == [Line("two", 2.0)]
    assert buffer.feed(b"\nfour\nfive") == [Line("three", 3.0), Line("four", 4.0)]
    assert buffer.close() == [Line("five", 4.0)]


def test_lines_end_in_any_way_and_may_come_in_pieces() -> None:
    buffer = LineBuffer(CLOCK)
    assert texts(buffer.feed(b"one\ntwo\r\nthree\rfo")) == ["one", "two", "three"]
    assert texts(buffer.feed(b"ur")) == []
    assert texts(buffer.feed(b"\n\n")) == ["four", ""]
    assert texts(buffer.close()) == []


def test_a_letter_may_come_in_pieces_and_what_is_no_text_is_replaced() -> None:
    buffer = LineBuffer(CLOCK)
    assert texts(buffer.feed("ä\n".encode()[:1])) == []
    assert texts(buffer.feed("ä\n".encode()[1:] + b"\xff\n")) == ["ä", "\ufffd"]


def test_of_a_line_without_an_end_the_last_characters_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_follower, "LONGEST", 4)
    buffer = LineBuffer(CLOCK)
    assert texts(buffer.feed(b"abcdef")) == []
    assert texts(buffer.feed(b"gh")) == []
    assert (texts(buffer.close()), texts(buffer.close())) == (["efgh"], [])


def test_lines_are_told_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = FileFollower(str(path), appended=False, clock=CLOCK)
    assert texts(follower.lines()) == []
    path.write_text("one\ntw")
    assert texts(follower.lines()) == ["one"]
    assert texts(follower.lines()) == []
    with path.open("a") as file:
        file.write("o\nthree")
    assert texts(follower.lines()) == ["two"]
    assert (texts(follower.rest()), texts(follower.rest())) == (["three"], [])


@pytest.mark.parametrize("kind", ["cut", "another file"])
def test_a_file_that_was_replaced_is_read_from_its_first_line(tmp_path: Path, kind: str) -> None:
    """A line of the earlier one without an end is no part of it."""
    path = tmp_path / "log"
    follower = FileFollower(str(path), appended=False, clock=CLOCK)
    path.write_text("one\ntwo\nthr")
    assert texts(follower.lines()) == ["one", "two"]
    if kind == "cut":
        path.write_text("1\n")
        assert texts(follower.lines()) == ["1"]
    else:
        (tmp_path / "next").write_text("another first line\nanother second line\n")
        (tmp_path / "next").replace(path)
        assert texts(follower.lines()) == ["another first line", "another second line"]


@pytest.mark.parametrize(
    ("appended", "expected"), [(True, ["new"]), (False, ["earlier", "unfinished new"])]
)
def test_what_earlier_attempts_wrote_is_passed_over(
    tmp_path: Path, appended: bool, expected: list[str]
) -> None:
    """Here with a line that has no end."""
    path = tmp_path / "log"
    path.write_text("earlier\nunfinished ")
    follower = FileFollower(str(path), appended, CLOCK)
    with path.open("a") as file:
        file.write("new\n")
    assert texts(follower.lines()) == expected


def test_a_new_file_of_an_earlier_name_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("earlier\n")
    follower = FileFollower(str(path), appended=True, clock=CLOCK)
    (tmp_path / "next").write_text("a longer first line\n")
    (tmp_path / "next").replace(path)
    assert texts(follower.lines()) == ["a longer first line"]


def write(path: Path, text: str, at_s: float) -> None:
    """Write a file that was last changed at a time."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, (at_s, at_s))


def test_of_files_that_match_the_one_written_last_is_followed(tmp_path: Path) -> None:
    pattern = str(tmp_path / "version_*" / "metrics.csv")
    follower = FileFollower(pattern, appended=False, clock=CLOCK)
    assert texts(follower.lines()) == []
    write(tmp_path / "version_9" / "metrics.csv", "nine\n", 100.0)
    assert texts(follower.lines()) == ["nine"]
    write(tmp_path / "version_10" / "metrics.csv", "ten\n", 200.0)
    assert texts(follower.lines()) == ["ten"]
    write(tmp_path / "version_1" / "metrics.csv", "one\n", 50.0)
    assert texts(follower.lines()) == []


def test_a_name_that_looks_like_a_pattern_is_that_of_its_file(tmp_path: Path) -> None:
    write(tmp_path / "log[1]", "in brackets\n", 100.0)
    write(tmp_path / "log1", "another\n", 200.0)
    follower = FileFollower(str(tmp_path / "log[1]"), appended=False, clock=CLOCK)
    assert texts(follower.lines()) == ["in brackets"]


def test_a_file_that_is_replaced_as_a_whole_is_told_when_it_has_changed(tmp_path: Path) -> None:
    """By the time of its last change, and by its size: clocks of file systems are coarse."""
    path = tmp_path / "state.json"
    follower = FileFollower(str(path), appended=False, clock=CLOCK)
    assert follower.replaced() is None
    write(path, "one", 100.0)
    assert (follower.replaced(), follower.replaced()) == ("one", None)
    write(path, "three", 100.0)
    assert (follower.replaced(), follower.replaced()) == ("three", None)
    write(path, "seven", 200.0)
    assert (follower.replaced(), follower.replaced()) == ("seven", None)
