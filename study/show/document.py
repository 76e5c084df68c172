"""Keep the time table in a user's document up to date, between two marker lines."""

import os
from collections.abc import Sequence
from pathlib import Path

from study.estimate.estimate import Estimate
from study.estimate.time_table import to_markdown
from study.files import write_file
from trainer.files import stat_readable
from trainer.problems import ConfigError, unreadable


def markers(study: str) -> tuple[bytes, bytes]:
    """Return the comments around a study's time table; Markdown does not show them."""
    return (
        f"<!-- time table {study}: begin -->".encode(),
        f"<!-- time table {study}: end -->".encode(),
    )


def update_document(path: Path, study: str, estimates: Sequence[Estimate]) -> bool:
    """Write the table between the markers of a file; return whether the file changed.

    Every byte outside the markers stays the same. Raises ConfigError if the file cannot be read or
    does not contain each marker once, in order.
    """
    target = Path(os.path.realpath(path))  # replace the target of a link, not the link
    before = _read(target)
    after = with_table(before, path, study, estimates)
    if after == before:
        return False
    mode = target.stat().st_mode
    try:
        write_file(target, after)
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be written: {error.strerror}"]) from None
    target.chmod(mode)
    return True


def check_document(path: Path, study: str, estimates: Sequence[Estimate]) -> None:
    """Raise ConfigError if the table in a file differs from the estimates."""
    before = _read(path)
    if with_table(before, path, study, estimates) != before:
        raise ConfigError(
            str(path),
            [f"the time table of study '{study}' is out of date; run this without --check"],
        )


def with_table(content: bytes, path: Path, study: str, estimates: Sequence[Estimate]) -> bytes:
    """Return a file's content with the table between its markers."""
    begin, end = markers(study)
    counts = {marker: content.count(marker) for marker in (begin, end)}
    wrong = [
        f"{marker.decode()} occurs {count} times" for marker, count in counts.items() if count != 1
    ]
    if wrong:
        raise ConfigError(
            str(path), [f"{line}; expected once, on a line of its own" for line in wrong]
        )
    start, stop = content.index(begin) + len(begin), content.index(end)
    if stop < start:
        line = 1 + content.count(b"\n", 0, stop)
        raise ConfigError(
            str(path), [f"line {line}: {end.decode()} precedes {begin.decode()}; swap them"]
        )
    # Use the same line ending as the marker.
    newline = b"\r\n" if content[start : start + 2] == b"\r\n" else b"\n"
    table = to_markdown(estimates).encode().replace(b"\n", newline)
    return content[:start] + newline * 2 + table + newline + content[stop:]


def _read(path: Path) -> bytes:
    try:
        stat_readable(path)
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
