"""Typed settings: one base class, one way to read YAML, one form for every complaint.

Each problem is a line `KEY.PATH: what was found; what was expected`, and all problems of a file are
reported together, so that a file is mended in one go.
"""

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

Loc = tuple[str | int, ...]


class ConfigError(ValueError):
    """What is wrong with a file or a command line that the user wrote.

    Commands print it without a traceback and exit with code 1.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source, self.problems = source, tuple(problems)
        count = f"{len(problems)} problem" + ("" if len(problems) == 1 else "s")
        super().__init__("\n".join([f"{source}: {count}", *(f"  {line}" for line in problems)]))


class Settings(BaseModel):
    """A frozen set of settings; a key that is not declared is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    left_out: ClassVar[Mapping[str, str]] = {}
    """Keys that a user may expect here, each with the reason why it is not offered. As null, which
    asks for nothing, they may stand."""

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        unasked = {key for key in cls.left_out if key in values and values[key] is None}
        return {key: value for key, value in values.items() if key not in unasked}

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_other_kinds(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and _takes_bool(cls, str(info.field_name)):
            return value
        return refuse_bool(value)


def refuse_bool(value: Any) -> Any:
    """Return a value that is no boolean, for pydantic takes true for 1; or raise ValueError.

    Nor is it a whole number that no machine's word holds, which fails at some later place.
    """
    if isinstance(value, bool):
        raise ValueError(f"found {str(value).lower()}; expected another kind of value")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"found {value}; expected a number of 64 bits")
    return value


SettingsT = TypeVar("SettingsT", bound=Settings)


def validate(cls: type[SettingsT], data: Mapping[str, Any], source: str) -> SettingsT:
    """Return `data` as settings; raise `ConfigError` naming `source` and every problem."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigError(
            source, [describe_problem(cls, item) for item in error.errors()]
        ) from None


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping; a missing file, bad syntax or a key given twice is a `ConfigError`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(str(path), [f"cannot be read: {reason}"]) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Parse a YAML mapping; `source` names the text in errors."""
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise ConfigError(source, [f"{where}: not valid YAML: {error.problem}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError(source, [f"not valid YAML: {error}"]) from None
    if not isinstance(data, dict):
        raise ConfigError(source, [f"expected a mapping of keys, found {_kind(data)}"])
    return data


def merge(base: Mapping[str, Any], *overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with each of `overrides` laid over it, nested mappings key by key."""
    result = dict(base)
    for override in overrides:
        for key, value in override.items():
            below = result.get(key)
            if isinstance(below, Mapping) and isinstance(value, Mapping):
                result[key] = merge(below, value)
            else:
                result[key] = value
    return result


def nest(dotted: str, value: Any) -> dict[str, Any]:
    """Return `{"a": {"b": value}}` for the dotted key `a.b`."""
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value


def suggest(word: str, known: Sequence[str]) -> str:
    """Return `did you mean 'x'?`, or the list of what is known where nothing is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"expected one of: {', '.join(known)}" if known else "none is expected here"


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys in silence; a user never means that."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key_node.tag != "tag:yaml.org,2002:merge":
                if key in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key '{key}' stands twice", problem_mark=key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def describe_problem(cls: type[Settings], item: Any) -> str:
    """Return one line for one of pydantic's error items about settings of class `cls`."""
    loc: Loc = item["loc"]
    path = format_loc(loc)
    if item["type"] == "extra_forbidden":
        word = str(loc[-1])
        owner = _settings_at(cls, loc[:-1])
        if owner is not None and word in owner.left_out:
            return f"{path}: {owner.left_out[word]}"
        known = [] if owner is None else list(owner.model_fields)
        return f"{path}: unknown key; {suggest(word, known)}"
    if item["type"] == "missing":
        return f"{path}: missing; this key is required"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if item["type"] == "value_error":
        word = message.split(" ", 1)[0].rstrip(":")
        owner = _settings_at(cls, loc)
        if owner is not None and word in owner.model_fields:  # it begins with one of its keys
            return f"{path}.{message}" if path else message
        return f"{path}: {message}" if path else message
    return f"{path or 'file'}: found {_kind(item['input'])}; {_lower_first(message)}"


def format_loc(loc: Sequence[str | int]) -> str:
    """Return `grid[0].model` for `("grid", 0, "model")`."""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _settings_at(cls: type[Settings], loc: Loc) -> type[Settings] | None:
    """Return the settings class at `loc`, followed through lists, mappings and optionals."""
    current: Any = cls
    for part in loc:
        if typing.get_origin(current) in (list, dict):
            current = typing.get_args(current)[-1]
            continue
        owner = _settings_in(current)
        if owner is None or part not in owner.model_fields:
            return None
        current = owner.model_fields[str(part)].annotation
    return _settings_in(current)


def _settings_in(annotation: Any) -> type[Settings] | None:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    for argument in typing.get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, Settings):
            return argument
    return None


@cache
def _takes_bool(cls: type[Settings], field: str) -> bool:
    return bool({bool, Any} & set(_kinds(cls.model_fields[field].annotation)))


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation is made of."""
    yield annotation
    for argument in typing.get_args(annotation):
        yield from _kinds(argument)


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return repr(value)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
