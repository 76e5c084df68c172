"""Reads a log while another program writes it."""

import codecs
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

LINE_END = re.compile(r"\r\n|\n|\r")

WILD = re.compile(r"[*?\[]")

LONGEST = 1 << 20
"""Characters of a line without an end that are kept."""


Clock = Callable[[], float]
"""Returns the present time, s."""


class Line(NamedTuple):
    """A line of a log."""

    text: str
    came_s: float
    """When the last of it came, without its end: s, by the reader's clock."""


class LineBuffer:
    """Cuts a stream of bytes into lines.

    Progress bars begin a line with a carriage return, which ends the line before it, perhaps much
    later than that one came.
    """

    def __init__(self, clock: Clock) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._clock = clock
        self._rest = Line("", 0.0)

    def feed(self, content: bytes) -> list[Line]:
        """Return the lines that are complete now."""
        text, before, now = self._decoder.decode(content), self._rest, self._clock()
        if not text:
            return []
        *texts, rest = LINE_END.split(before.text + text)
        self._rest = Line(rest[-LONGEST:], now)
        lines = [Line(text, now) for text in texts]
        if LINE_END.match(text):
            lines[0] = before
        return lines

    def close(self) -> list[Line]:
        """Return the last line if it has no end."""
        rest, self._rest = self._rest, Line("", 0.0)
        return [rest] if rest.text else []


class FileFollower:
    """Follows a file that exists, or will; a pattern such as `version_*/metrics.csv` means the
    newest file that matches."""

    def __init__(self, path: str, appended: bool, clock: Clock) -> None:
        """`appended`: what the file contains now is of earlier attempts, and is passed over."""
        self._pattern, self._clock = path, clock
        matches = self._matches() if appended else []
        self._earlier = {found: _identity(found) for found in matches}
        self._path: Path | None = None
        self._offset, self._file_id = 0, -1
        self._seen: tuple[int, int] | None = None
        self._lines = LineBuffer(clock)

    def lines(self) -> list[Line]:
        """Return the lines that have been added; from the first if the file was replaced."""
        path = self._newest()
        if path is None:
            return []
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if path != self._path or status.st_ino != self._file_id:
                    self._open(path, status.st_ino)
                if status.st_size < self._offset:
                    self._offset, self._lines = 0, LineBuffer(self._clock)
                file.seek(self._offset)
                content = file.read()
        except OSError:
            return []
        self._offset += len(content)
        return self._lines.feed(content)

    def rest(self) -> list[Line]:
        """Return the lines at the end of the run, with one that has no end."""
        return [*self.lines(), *self._lines.close()]

    def replaced(self) -> str | None:
        """Return the whole content, if it has changed since the last time."""
        path = self._newest()
        if path is None:
            return None
        try:
            status = path.stat()
            seen = (status.st_mtime_ns, status.st_size)
            if (path, seen) == (self._path, self._seen):
                return None
            content = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        self._path, self._seen = path, seen
        return content

    def _open(self, path: Path, file_id: int) -> None:
        known, size = self._earlier.get(path, (-1, 0))
        self._path, self._file_id, self._lines = path, file_id, LineBuffer(self._clock)
        self._offset = size if known == file_id else 0

    def _matches(self) -> list[Path]:
        path = Path(self._pattern)
        if path.exists() or not WILD.search(self._pattern):
            return [path]
        root = path
        while WILD.search(str(root)):
            root = root.parent
        return [*root.glob(str(path.relative_to(root)))]

    def _newest(self) -> Path | None:
        """Return the file last written that matches."""
        found = []
        for path in self._matches():
            try:
                found.append((path.stat().st_mtime_ns, path))
            except OSError:
                continue
        return max(found)[1] if found else None


def _identity(path: Path) -> tuple[int, int]:
    """Return the inode and the size of a file."""
    try:
        status = path.stat()
    except OSError:
        return -1, 0
    return status.st_ino, status.st_size
