"""Typed settings: one base class, and problems that name the key.

All problems are reported together, so that they can be fixed in one go.
"""

import difflib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails

from trainer.kinds import Kinds, check_number, expected, number_kind
from trainer.layers import Layer, Merged
from trainer.problems import ConfigError, KeyPath, Problem, RuleError

IsNumber = BeforeValidator(check_number)
"""Rejects booleans and strings as numbers inside lists and mappings, which `Settings` does not."""

Text = Annotated[str, Field(min_length=1)]
"""Not empty."""


@dataclass(frozen=True)
class LeftOut:
    """An unsupported key, some values of which ask for what happens anyway."""

    reason: str
    """Why it is unsupported, and what to use instead."""
    asks_nothing: Callable[[Any], bool]
    """Says whether a value asks for what happens anyway."""


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

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {}
    """Unsupported keys that a user may expect here -> the reason. They are accepted if null, and if
    they ask for what happens anyway."""

    other_names: ClassVar[Mapping[str, str]] = {}
    """Names that other programs give a key -> the key here, or a dotted one in another group. They
    are only suggested."""

    @model_validator(mode="before")
    @classmethod
    def _drop_without_effect(cls, values: Any) -> Any:
        if not cls.left_out or not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if not _asks_nothing(cls, key, value)}

    @field_validator("*", mode="before")
    @classmethod
    def _reject_other_kinds(cls, value: Any, info: ValidationInfo) -> Any:
        return _kinds(cls, str(info.field_name)).check(value)


SettingsT = TypeVar("SettingsT", bound=Settings)


def validate(cls: type[SettingsT], data: Mapping[str, Any] | Merged, source: str) -> SettingsT:
    """Return `data` as settings; raise `ConfigError` naming `source` and every problem."""
    values = data.values if isinstance(data, Merged) else data
    if isinstance(values, Mapping):
        check_kind(cls, values, source)
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        problems = problems_of(cls, values, error)
    if isinstance(values, Mapping):
        merged = data if isinstance(data, Merged) else Merged([Layer(values)])
        problems = [merged.trace(problem) for problem in problems]
    raise ConfigError(source, problems)


def check_kind(cls: type[Settings], values: Mapping[str, Any], source: str) -> None:
    """Raise ConfigError if values are not those of a class at all, as those of a file of another
    kind: each of its keys would be a problem."""
    known = fields_of(cls)
    required = [name for name, field in known.items() if field.is_required()]
    unknown = [str(name) for name in values if name not in known]
    if required and values.keys().isdisjoint(required) and len(unknown) > 2:
        found = f"{', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''}"
        raise ConfigError(source, [f"found the keys {found}; expected {', '.join(required)}"])


def report_with(broken: RuleError, build: Callable[[Any], Any], values: Any) -> NoReturn:
    """Raise `broken` of the settings that `build` makes, with what is wrong with single keys."""
    try:
        build(values)
    except ValidationError as error:
        found = [
            InitErrorDetails(
                type=item["type"], loc=item["loc"], input=item["input"], ctx=item.get("ctx", {})
            )
            for item in error.errors()
            if item["loc"]  # other rules of the same settings may follow from this one
        ]
        found.append(InitErrorDetails(type="value_error", input=values, ctx={"error": broken}))
        raise ValidationError.from_exception_data(error.title, found) from None
    raise broken


def problems_of(cls: type[Settings], values: Any, error: ValidationError) -> list[Problem]:
    """Return the problems that pydantic found in the settings of a class, one per key."""
    found: dict[KeyPath, Problem] = {}
    words: dict[KeyPath, Any] = {}
    for item in error.errors():
        path = _find_key(values, item)
        if item["type"] == "literal_error":
            words[path] = item
        else:
            problem = _describe(cls, path, item)
            found.setdefault(problem.path, problem)
    # For a union such as `int | Literal["auto"]`, pydantic reports one error per alternative. A
    # group was not meant as a word if something is wrong inside it.
    for path, item in words.items():
        if path in found:
            message = f"{found[path].message} or {item['ctx']['expected']}"
            found[path] = replace(found[path], message=message)
        elif not any(other[: len(path)] == path for other in found):
            found[path] = _describe(cls, path, item)
    return list(found.values())


def suggest(word: str, known: Sequence[str]) -> str:
    """Return `did you mean 'x'?`, or a list of the known words if none is similar."""
    near = _most_similar(word, known)
    if near:
        return f"did you mean '{near}'?"
    return f"expected one of: {', '.join(known)}" if known else "none is expected here"


def suggest_key(root: type[Settings], group: KeyPath, word: str) -> str:
    """Return what may be meant by an unknown key of a group of `root`: the key that other programs
    call so, a similar key of the group, or the key of that or a similar name in another group."""
    owner = _settings_at(root, group)
    known = [] if owner is None else list(fields_of(owner))
    plain = word.lower().replace("-", "_")
    meant = None if owner is None else owner.other_names.get(plain)
    # A word that is hardly similar may well be a key of another group.
    elsewhere = places(root)
    meant = meant or _most_similar(plain, known, 0.8) or elsewhere.get(plain)
    meant = meant or elsewhere.get(_most_similar(plain, list(elsewhere), 0.8) or "")
    return f"did you mean '{meant}'?" if meant else suggest(word, known)


@cache
def places(root: type[Settings]) -> dict[str, str]:
    """Return key or other name -> dotted key, of all groups of `root`; the outermost come first."""
    found: dict[str, str] = {}
    groups: list[tuple[str, type[Settings]]] = [("", root)]
    for prefix, group in groups:
        for name, meant in group.other_names.items():
            found.setdefault(name, prefix + meant)
        for name, field in fields_of(group).items():
            found.setdefault(name, prefix + name)
            inner = group_in(field.annotation)
            if inner is not None:
                groups.append((f"{prefix}{name}{_inside(field.annotation)}.", inner))
    return found


def _inside(annotation: Any) -> str:
    """Return what stands for an entry between a key and the keys of its entries."""
    kinds = {typing.get_origin(part) for part in (annotation, *typing.get_args(annotation))}
    return ".NAME" if dict in kinds else "[0]" if kinds & {list, tuple} else ""


def _most_similar(word: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    near = difflib.get_close_matches(word[:LONGEST_WORD], known, n=1, cutoff=cutoff)
    return near[0] if near else None


LONGEST_WORD = 100
"""Most characters of a word that is compared with others."""


def _asks_nothing(cls: type[Settings], key: Any, value: Any) -> bool:
    """Say whether a key is unsupported and its value asks for what happens anyway."""
    entry = cls.left_out.get(key)
    if entry is None or value is None:
        return entry is not None
    return isinstance(entry, LeftOut) and entry.asks_nothing(value)


def _find_key(values: Any, item: Any) -> KeyPath:
    """Return the key that one of pydantic's errors is about.

    Its `loc` also contains the names of a union's alternatives, which are not keys.
    """
    path: list[str | int] = []
    is_absent = item["type"] in ("missing", "invalid_key")
    for depth, part in enumerate(item["loc"], start=1):
        is_key = isinstance(values, Mapping) and part in values
        if is_key or isinstance(part, int) or (is_absent and depth == len(item["loc"])):
            path.append(part)
        inside = is_key or (isinstance(values, list | tuple) and part in range(len(values)))
        values = values[part] if inside else values
    return tuple(path)


def _describe(cls: type[Settings], path: KeyPath, item: Any) -> Problem:
    if item["type"] in ("extra_forbidden", "invalid_key"):
        word, owner = str(path[-1]), _settings_at(cls, path[:-1])
        if owner is not None and word in owner.left_out:
            entry = owner.left_out[word]
            return Problem(path, entry if isinstance(entry, str) else entry.reason)
        return Problem(path, f"unknown key; {suggest_key(cls, path[:-1], word)}")
    if item["type"] == "missing":
        return Problem(path, "missing; this key is required")
    if item["type"] == "value_error":
        error = item["ctx"]["error"]
        return error.problem(path) if isinstance(error, RuleError) else Problem(path, str(error))
    wanted = expected(item["type"], item.get("ctx", {}))
    message = f"expected {wanted}" if wanted else item["msg"][:1].lower() + item["msg"][1:]
    return Problem(path, f"found {_kind(item['input'])}; {message}")


def _settings_at(cls: type[Settings], path: KeyPath) -> type[Settings] | None:
    """Return the settings class at a key, followed through lists, mappings and optionals."""
    return group_in(_annotation_at(cls, path))


def _annotation_at(cls: type[Settings], path: KeyPath) -> Any:
    """Return the annotation of a key, followed through lists, mappings and optionals; None if there
    is no such key."""
    current: Any = cls
    for part in path:
        if typing.get_origin(current) in (list, dict, tuple):
            current = next(arg for arg in reversed(typing.get_args(current)) if arg is not ...)
            continue
        owner = group_in(current)
        fields = {} if owner is None else fields_of(owner)
        if part not in fields:
            return None
        current = fields[str(part)].annotation
    return current


def fields_of(cls: type[Settings]) -> dict[str, FieldInfo]:
    """Return key -> field of a settings class; keys that are no names in Python are aliases."""
    return {field.alias or name: field for name, field in cls.model_fields.items()}


@cache
def number_at(root: type[Settings], path: KeyPath) -> type[int] | type[float] | None:
    """Return int or float if the setting at a key of `root` is a number, whole or not; None if it
    is none, or may also be a string."""
    return number_kind(_annotation_at(root, path))


def default_at(root: type[Settings], path: KeyPath) -> Any:
    """Return the default of a key of `root` in a group that is set; None if it has none."""
    owner = _settings_at(root, path[:-1])
    field = owner.model_fields.get(str(path[-1])) if owner is not None else None
    return None if field is None or field.is_required() else field.default


@cache
def dotted_keys(root: type[Settings]) -> tuple[str, ...]:
    """Return the dotted keys of all groups and settings of `root`."""
    keys: list[str] = []
    for name, field in root.model_fields.items():
        inner = group_in(field.annotation)
        below = () if inner is None else dotted_keys(inner)
        keys += [name, *(f"{name}.{key}" for key in below)]
    return tuple(keys)


@cache
def _kinds(cls: type[Settings], field: str) -> Kinds:
    return Kinds.of(cls.model_fields[field].annotation)


def group_in(annotation: Any) -> type[Settings] | None:
    """Return the settings class that an annotation contains, if any."""
    for part in (annotation, *typing.get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Settings):
            return part
    return None


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= LONGEST_WORD else f"{text[:LONGEST_WORD]}..."
