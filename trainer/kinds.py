"""The kinds of value that a setting accepts; pydantic alone would coerce true to 1."""

import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union

from trainer.yaml_files import shorten

SCALARS = frozenset((bool, int, float, str))

TYPES: dict[type, set[type]] = {bool: {bool}, int: {int, float}, float: {int, float}, str: {str}}
"""Annotation -> types of the values that it accepts. pydantic checks that an int is whole."""


@dataclass(frozen=True)
class Kinds:
    """The kinds of value that one setting accepts."""

    types: frozenset[type]
    """Scalar types."""
    words: tuple[Any, ...]
    """Values of its `Literal`s."""
    only_scalars: bool
    """False if it accepts other kinds too, such as lists, which pydantic checks."""
    names: tuple[str, ...]
    """Names of the kinds, for messages."""

    @classmethod
    def of(cls, annotation: Any) -> "Kinds":
        """Return the kinds that an annotation accepts."""
        parts = list(_alternatives(annotation))
        only_scalars = all(_types(part) or part is NoneType or _words(part) for part in parts)
        types = frozenset(kind for part in parts for kind in _types(part))
        words = tuple(word for part in parts for word in _words(part))
        names = tuple(dict.fromkeys(name for part in parts for name in _names(part)))
        return cls(types, words, only_scalars, names)

    def check(self, value: Any) -> Any:
        """Return the value; raise ValueError if it is a scalar of another kind."""
        kind = type(value)
        if kind not in SCALARS:
            return value
        if kind in self.types or (kind is str and value in self.words):
            # torch and numpy would fail later on integers beyond 64 bits.
            if kind is int and not -(2**63) <= value < 2**63:
                raise ValueError(f"found {shorten(value)}; expected a 64-bit number")
            return value
        if self.only_scalars or kind is bool:
            raise ValueError(self._describe(value))
        return value

    def _describe(self, value: Any) -> str:
        found = str(value).lower() if isinstance(value, bool) else shorten(repr(value))
        *names, last = self.names
        expected = f"{', '.join(names)} or {last}" if names else last
        hint = _hint(value) if float in self.types and isinstance(value, str) else ""
        if self.types == {str}:
            hint = ", in quotes"
        return f"found {found}; expected {expected}{hint}"


def number_kind(annotation: Any) -> type[int] | type[float] | None:
    """Return int or float if an annotation stands for a number, whole or not, and accepts no
    string but the words of a `Literal`; None otherwise."""
    parts = set(_alternatives(annotation))
    if str in parts:
        return None
    return float if float in parts else int if int in parts else None


EXPECTED = {
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of {ge:g} or more",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of {le:g} or less",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a 64-bit number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "string_too_short": "a string that is not empty",
    "string_too_long": "{max_length} characters at most",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "at least {min_length}",
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "literal_error": "{expected}",
}
"""Type of one of pydantic's errors -> what was expected. Its own words are those of a Python
program: tuples, validation, patterns."""


def expected(error: str, context: Mapping[str, Any]) -> str | None:
    """Return what was expected where pydantic found an error of a type; None if it has no words."""
    if error == "string_pattern_mismatch":
        return _characters(context["pattern"])
    return EXPECTED[error].format_map(context) if error in EXPECTED else None


def _characters(pattern: str) -> str | None:
    """Return what a pattern of letters, digits and a few others allows; None for other patterns."""
    others = re.search(r"\[A-Za-z0-9([^]]+)\][*+]\$$", pattern)
    if others is None:
        return None
    first = ", the first a letter or a digit" if pattern.startswith("^[A-Za-z0-9][") else ""
    return f"letters, digits and {' '.join(others[1])} only{first}"


def check_number(value: Any) -> Any:
    """Return the value; raise ValueError if it is a boolean or a string."""
    return NUMBER.check(value)


def _alternatives(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin in (Union, UnionType):
        for argument in typing.get_args(annotation):
            yield from _alternatives(argument)
    elif origin is Annotated:
        yield from _alternatives(typing.get_args(annotation)[0])
    else:
        yield annotation


def _types(kind: Any) -> Iterable[type]:
    if kind is Any:
        return SCALARS
    return TYPES.get(kind, ()) if isinstance(kind, type) else ()


def _words(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _names(kind: Any) -> Iterator[str]:
    if kind is bool:
        yield from ("true", "false")
    elif kind in (int, float):
        yield "a number"
    elif kind is str:
        yield "a string"
    elif _words(kind):
        yield from map(repr, _words(kind))
    elif typing.get_origin(kind) in (list, tuple):
        yield "a list"
    elif kind is not NoneType:
        yield "a mapping"


def _hint(text: str) -> str:
    """Return how to rewrite a string that was meant as a number."""
    try:
        float(text)
    except ValueError:
        return ""
    return ", written without underscores" if "_" in text else ", written without quotes"


NUMBER = Kinds.of(float)
