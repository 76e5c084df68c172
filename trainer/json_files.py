"""Reading JSON that programs write: every mistake in it is a ValueError. Imports no torch."""

import json
import re
from typing import Any

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(content: str | bytes) -> Any:
    """Return the value of a JSON text, in UTF-8 if it is bytes.

    NaN and Infinity, which some writers use though JSON has neither, are None. Raises ValueError,
    also for half of a surrogate pair, which is no character, and for very deep nesting.
    """
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    try:
        value = json.loads(text, parse_constant=_not_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair, which is not a character") from None
    return value


def _not_finite(_: str) -> None:
    """Read NaN and Infinity as null."""
