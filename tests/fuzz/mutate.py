"""Mutations of valid inputs: of their bytes, and of the values in them."""

import copy
import random
from typing import Any

TOKENS: tuple[bytes, ...] = (
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\r\n", b"\n\n", b"\t",
    b" ", b"NaN", b"Infinity", b"-Infinity", b".nan", b".inf", b"1e999", b"-1", b"0", b"1e-400",
    b"1_000", b"9223372036854775808", b"1" * 30, b"9" * 5000, b"0x10", b"0o17", b"010", b"1.5",
    b"600,000", b"64000000001", b"true", b"yes", b"null", b"~", b"2026-01-01", b"12:00:00",
    b"1-12", b"00:30:00", b'"', b"'", b"''", b"\\", b"|", b"#", b"%", b"@", b"`", b"!", b"&a ",
    b"*a", b"<<: *a", b"!!str ", b"!!python/object:os.system ", b"!!timestamp ", b"!!binary ",
    b"!!set ", b"--- ", b"...", b"? ", b": ", b"- ", b",", b";", b"{", b"}", b"[", b"]",
    b"[" * 500, b"{a: " * 200, b'{"a":' * 3000, b"[0-9]{1,2}", b"{x}", b"${HOME}", b"$NOPE",
    b"${oc.env:HOME}", b"<!--", b"-->", b"\xe2\x80\xa8", b"\\ud800", b"\\ud83d\\ude00",
    b'"\\ud800"', b"\\u0000", b"\x1b[31m", b"a" * 70_000, b"=", b"==",
)  # fmt: skip
"""What readers of YAML, JSON, CSV, logs and Markdown give a meaning to, or cannot bear."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 1.5, -0.5, 0.0, 1e308, -1e308, 5e-324, 2**31, 2**63 - 1,
    2**63, 2**64, -(2**63), 10**30, 64_000_000_001, 999_999_999_989, float("nan"), float("inf"),
    float("-inf"), "", " ", "x", "one", "base", "auto", "a" * 5000, "\ud800", "\x00", "\n", "|",
    "{x}", "${HOME}", "$NOPE", "~", "~nobody/x", "${oc.env:HOME}", "..", "/", "/dev/null",
    "config/nope.yaml", "12:00:00", "1-12", "99999999-0", "2026-01-01", "1e18",
    "9" * 400 + " steps", "1 steps", "nan", "chinchilla", [], {}, [[]], [None], [1], ["one"],
    {"": 1}, {"a": {"b": {}}}, [1] * 300,
)  # fmt: skip


def mutate_bytes(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """Return an input with a few changes of its bytes, perhaps with a piece of another input."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        start = draw.randint(0, len(content))
        stop = min(len(content), start + draw.choice((0, 0, 1, 1, 4, 20, 200)))
        kind = draw.randrange(8)
        if kind <= 2:
            new = draw.choice(TOKENS)
        elif kind == 3:
            new = bytes(draw.randrange(256) for _ in range(draw.choice((1, 1, 2, 8))))
        elif kind == 4:
            new = content[start:stop] * draw.choice((0, 2, 2, 50))
        elif kind == 5:
            other = draw.choice(others)
            at = draw.randint(0, len(other))
            new = other[at : at + draw.choice((1, 10, 100, 1000))]
        elif kind == 6:  # cut off
            return content[:start]
        else:
            lines = content.splitlines(keepends=True)
            if lines:
                at = draw.randrange(len(lines))
                lines[at:at] = [lines[draw.randrange(len(lines))]] * draw.choice((1, 1, 3))
                content = b"".join(lines)
            continue
        content = content[:start] + new + content[stop:]
    return content[:300_000]


def mutate_value(value: Any, draw: random.Random) -> Any:
    """Return a copy of nested mappings and lists with a few of their values changed."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return draw.choice(VALUES)
        holder, key = draw.choice(places)
        kind = draw.randrange(8)
        if kind <= 3:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
        elif kind == 4:
            del holder[key]
        elif kind == 5:
            other, name = draw.choice(places)
            if name in other if isinstance(other, dict) else name < len(other):
                holder[key] = copy.deepcopy(other[name])
        elif kind == 6:
            holder[key] = draw.choice(([holder[key]], {"a": holder[key]}, str(holder[key])[:5000]))
        elif isinstance(holder, dict):
            names = (7, "", f"{key}s", str(key).upper(), "learning_rate", "{x}", 1.5, None)
            holder[draw.choice(names)] = holder.pop(key)
    return value


def _places(value: Any) -> Any:
    """Yield mapping or list, and key or index, of every value inside."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)
