"""Logs that a study describes, line by line: by regular expressions, or by the keys of JSON.

A malformed line of a log is no reason to end a run: it is skipped.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from study.measure.line_logs import COLOURS
from study.measure.log_values import Values, to_number, value_at


def regex_lines(patterns: tuple[str, ...]) -> Callable[[str], Values | None]:
    """Return a reader of lines by regular expressions, whose named groups are values.

    Several may match the same line; each adds its values.
    """
    compiled = [re.compile(pattern) for pattern in patterns]

    def read(line: str) -> Values | None:
        text = COLOURS.sub("", line)
        found: dict[str, float | None] = {}
        for pattern in compiled:
            if match := pattern.search(text):
                found |= {k: to_number(v) for k, v in match.groupdict().items() if v is not None}
        return found or None

    return read


def json_lines(
    fields: Mapping[str, str], ignored: Callable[[Mapping[str, Any]], bool] = lambda data: False
) -> Callable[[str], Values | None]:
    """Return a reader of lines that are JSON objects. `fields`: value -> its key; one with dots is
    in an inner object, unless the object has the whole key. Other lines are skipped."""

    def read(line: str) -> Values | None:
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(data, dict) or ignored(data):
            return None
        found = {name: value_at(data, key) for name, key in fields.items()}
        known = {name: value for name, value in found.items() if value is not None}
        return known or None

    return read
