"""Settings merged from several layers, and which layer each setting came from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer.problems import KeyPath, Problem
from trainer.yaml_files import Document


@dataclass(frozen=True)
class Layer:
    """Settings from one origin, such as a file, the command line, or a variant of a study."""

    values: Mapping[str, Any]
    at: KeyPath = ()
    """Key in the merged settings under which these are merged."""
    prefix: KeyPath = ()
    """Key under which they are written at their origin."""
    derived: bool = False
    """The values are not written anywhere but computed from the setting at `prefix`."""
    source: str | None = None
    """Name of the file, or "command line"; None if not known yet."""
    document: Document | None = None
    """The parsed file, for line numbers."""

    @classmethod
    def of(cls, document: Document, at: KeyPath = ()) -> "Layer":
        """Return a layer with the content of a file."""
        return cls(document.values, at, source=document.source, document=document)

    def locate(self, path: KeyPath) -> KeyPath:
        """Return the key at the origin for a key of the merged settings."""
        return self.prefix if self.derived else (*self.prefix, *path[len(self.at) :])

    def line(self, path: KeyPath) -> int | None:
        """Return the line of a key at the origin, if known."""
        return None if self.document is None else self.document.line(path)


class Merged:
    """Settings merged from layers; later layers override earlier ones."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self._values = [_nest(layer.at, layer.values) for layer in layers]
        self.values = merge({}, *self._values)

    @property
    def sources(self) -> list[str | None]:
        """The source of each layer."""
        return [layer.source for layer in self._layers]

    def over(self, *layers: Layer) -> "Merged":
        """Return these settings with more layers merged on top."""
        return Merged([*self._layers, *layers])

    def with_value(self, path: KeyPath, value: Any) -> "Merged":
        """Return these settings with another value for a key that is set; its origin stays."""
        index = self._find(path)[1]
        layer = self._layers[index]
        changed = merge(layer.values, _nest(path[len(layer.at) :], value))
        layers = [*self._layers[:index], replace(layer, values=changed), *self._layers[index + 1 :]]
        return Merged(layers)

    def trace(self, problem: Problem) -> Problem:
        """Return a problem with the merged settings as a problem with its origin.

        If a rule involves several keys, the one from the latest layer is blamed. Other keys of that
        layer remain candidates, for callers that know where the layer itself was merged from.
        """
        if problem.source is not None:
            return problem
        origins = {path: self._find(path) for path in (problem.path, *problem.others)}
        latest = max(origins.values())
        paths = [path for path in origins if origins[path] == latest]
        if problem.path in paths:
            paths.remove(problem.path)
            problem = replace(problem, others=tuple(paths))
        else:
            problem = problem.blame(paths[0])
        layer = self._layers[latest[1]]
        path, *others = map(layer.locate, (problem.path, *problem.others))
        return replace(
            problem, path=path, others=tuple(others), source=layer.source, line=layer.line(path)
        )

    def _find(self, path: KeyPath) -> tuple[bool, int]:
        """Return whether a key is set, and the index of the layer that sets it.

        For a missing key, that is the first layer with the group that lacks it.
        """
        found = list(enumerate(self._values))
        for part in path:
            below = [(index, value[part]) for index, value in found if _has(value, part)]
            if not below:
                return False, found[0][0]
            found = _uncovered(below)
        return True, found[-1][0]


def merge(base: Mapping[str, Any], *overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with each of `overrides` merged on top, nested mappings key by key."""
    result = dict(base)
    for override in overrides:
        for key, value in override.items():
            below = result.get(key)
            if isinstance(below, Mapping) and isinstance(value, Mapping):
                result[key] = merge(below, value)
            else:
                result[key] = value
    return result


def flatten(values: Mapping[str, Any], at: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the key and value of all that is not a mapping, or an empty one."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, (*at, key))
        else:
            yield (*at, key), value


def nest(dotted: str, value: Any) -> dict[str, Any]:
    """Return `{"a": {"b": value}}` for the dotted key `a.b`."""
    nested: dict[str, Any] = _nest(dotted.split("."), value)
    return nested


def _nest(path: Sequence[str | int], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list | tuple) and part in range(len(value))


def _uncovered(found: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Return the values that are visible after a merge: a value other than a mapping hides those
    before it and is hidden by those after it."""
    start = len(found) - 1
    if isinstance(found[-1][1], Mapping):
        while start > 0 and isinstance(found[start - 1][1], Mapping):
            start -= 1
    return found[start:]
