"""Values in other trainers' logs, as text or JSON.

A value that the log does not have, or that cannot be read, is None.
"""

import re
from collections.abc import Mapping
from typing import Any

from trainer.yaml_files import shorten

THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?", re.ASCII)
"""A number whose commas separate thousands; that of 0,123 is a decimal one."""

Values = Mapping[str, float | None]
"""Values of a log, under the names of `study.trainers.LogField`."""


def to_number(text: str) -> float | None:
    """Return the number in a part of a line; None if it is none.

    Commas separate thousands: `1,234.5` is a number, `3,25` is none.
    """
    text = text.rstrip(",")
    if "," in text and not THOUSANDS.fullmatch(text):
        return None
    try:
        return float(text.replace(",", "").replace("_", ""))
    except ValueError:
        return None


def as_number(value: Any) -> float | None:
    """Return a value of JSON as a number; None if it is none, or beyond 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if 2**63 <= abs(value) < float("inf") else float(value)


def value_at(data: Mapping[str, Any], key: str) -> float | None:
    """Return a number in an object of JSON; a key with dots is in an inner object, unless the whole
    key is in `data`."""
    if key in data:
        return as_number(data[key])
    value: Any = data
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return as_number(value)


def describe_value(value: Any) -> str:
    """Return what was found in place of a number, for a message."""
    return "missing" if value is None else f"found {shorten(value)!r}"
