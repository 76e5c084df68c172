"""Reading and writing YAML, for all files and for values on a command line.

Plain scalars follow the core schema of YAML 1.2: `1e18` and `3e-4` are numbers, `010` is 10, `0o17`
is 15, and `yes`, `on`, `1:30` and `1_000` are strings. PyYAML itself implements YAML 1.1.

Keys are strings: `7:` is the same key as `"7":`. Size, nesting and the use of aliases are limited,
so that no file takes all memory or the stack.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from trainer.paths import expand_path
from trainer.problems import ConfigError, KeyPath, Problem

TAG = "tag:yaml.org,2002:"

CORE_SCHEMA = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
    "merge": (r"<<", ["<"]),  # not in YAML 1.2, but widely used
}
"""Tag -> pattern of its plain scalars, and their possible first characters."""

LONGEST_NUMBER = 1000
"""Most characters of a number; Python's own limit is 4300 digits."""

LARGEST_FILE = 4 * 2**20
"""Most bytes of a file."""

DEEPEST = 64
"""Most mappings and lists inside each other."""

MOST_VALUES = 200_000
"""Most values of a file in which each alias counts like a copy of what it stands for."""

SHOWN = 60
"""Most characters of a wrong value in a message."""


@dataclass(frozen=True)
class Document:
    """A YAML mapping, with the line numbers of its keys."""

    values: dict[str, Any]
    source: str
    """The file's name."""
    root: yaml.Node = field(repr=False)
    """The syntax tree."""

    def line(self, path: KeyPath) -> int | None:
        """Return the line of a key; for a missing one, of the innermost group it would be in."""
        node, line = self.root, None
        for part in path:
            found = _find_child(node, part)
            if found is None:
                break
            node, line = found
        return line


def load_document(path: str | Path) -> Document:
    """Read a YAML mapping. Raises ConfigError, see `parse_document`."""
    try:
        with Path(expand_path(str(path))).open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ValueError(f"more than {LARGEST_FILE // 2**20} MiB; expected a file of settings")
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        reason = error.strerror or reason if isinstance(error, OSError) else reason
        raise ConfigError(str(path), [f"cannot be read: {reason}"]) from None
    return parse_document(text.replace("\r\n", "\n"), str(path))


def parse_document(text: str, source: str) -> Document:
    """Parse a YAML mapping; `source` names the text in errors.

    Raises ConfigError for invalid syntax, duplicate keys, and anything but a mapping.
    """
    root, values = _parse(text, source)
    if not isinstance(values, dict):
        found = "nothing" if values is None else "a list" if isinstance(values, list) else "text"
        found = shorten(values) if isinstance(values, bool | int | float) else found
        raise ConfigError(source, [f"expected a mapping of keys, found {found}"])
    assert root is not None
    return Document(values, source, root)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Return the values of `load_document`."""
    return load_document(path).values


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Return the values of `parse_document`."""
    return parse_document(text, source).values


def parse_assignment(argument: str) -> tuple[str, Any]:
    """Return key and value of `key=value`, the value read as YAML. Raises ConfigError."""
    source = "command line"
    key, sign, text = argument.partition("=")
    if not sign or not key:
        raise ConfigError(source, [f"{shorten(argument)}: expected key=value"])
    try:
        return key, _parse(text, source)[1]
    except ConfigError:
        message = f"'{shorten(text)}' is not a YAML value"
        raise ConfigError(source, [Problem((shorten(key),), message)]) from None


def shorten(value: Any) -> str:
    """Return a value's text for a message, with an ellipsis if it is long."""
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def dump_yaml(values: Any) -> str:
    """Return YAML text that reads back as the same values, also in readers of YAML 1.1."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Supports only the tags of the core schema."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  (as PyYAML declares it)
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    depth = 0
    """Mappings and lists around the node that is being composed."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        """Return the next node. Raises MarkedYAMLError if it is nested too deeply."""
        if self.depth > DEEPEST:
            mark = self.peek_event().start_mark
            problem = f"more than {DEEPEST} mappings and lists inside each other"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """Return a string. JSON writes characters beyond 16 bits as two escapes, joined here."""
        text = str(node.value)
        if "\0" in text:  # no path, and no word of a command, can have it
            problem = "found the character U+0000"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        if any("\ud800" <= character <= "\udfff" for character in text):
            try:
                text = text.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                problem = "found half of a surrogate pair, which is not a character"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose integer keys are strings, as if they were quoted."""
        values = super().construct_mapping(node, deep)
        return {_name(key): value for key, value in values.items()}

    def construct_core(self, node: yaml.ScalarNode) -> Any:
        """Return a boolean or a number. Checks the text, since an explicit tag allows any."""
        kind, text = node.tag.removeprefix(TAG), str(node.value)
        if len(text) > LONGEST_NUMBER or not re.fullmatch(CORE_SCHEMA[kind][0], text):
            raise yaml.MarkedYAMLError(
                problem=f"'{shorten(text)}' is not of type {kind}", problem_mark=node.start_mark
            )
        if kind == "int":
            return int(text, 0 if text.startswith(("0o", "0x")) else 10)
        return self.construct_yaml_bool(node) if kind == "bool" else self.construct_yaml_float(node)


_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # without libyaml, slower


class _Dumper(_SafeDumper):
    """Quotes strings that YAML 1.1 or 1.2 reads as another type."""


for _kind, (_pattern, _first) in CORE_SCHEMA.items():
    for _class in (_Loader, _Dumper):
        _regexp = re.compile(rf"(?:{_pattern})\Z")
        _class.add_implicit_resolver(TAG + _kind, _regexp, _first)
for _kind in ("bool", "int", "float"):
    _Loader.add_constructor(TAG + _kind, _Loader.construct_core)
_Loader.add_constructor(f"{TAG}str", _Loader.construct_text)
for _tag in (f"{TAG}null", f"{TAG}seq", f"{TAG}map", None):
    _construct: Any = yaml.SafeLoader.yaml_constructors[_tag]
    _Loader.add_constructor(_tag, _construct)  # None: any other tag, which is an error


def _parse(text: str, source: str) -> tuple[yaml.Node | None, Any]:
    """Return the syntax tree and the value of a text; (None, None) if it is empty."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, None
        check = _StructureCheck(loader)
        values = check.count(root, ())
        if check.problems:
            raise ConfigError(source, check.problems)
        if values > MOST_VALUES:
            problem = f"more than {MOST_VALUES:,} values, with those that aliases repeat"
            raise ConfigError(source, [problem])
        return root, loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        problem = str(error.problem)
        if problem.startswith("but "):  # the rest of a sentence
            problem = f"{error.context}, {problem}"
        raise ConfigError(source, [f"{where}: not valid YAML: {problem}"]) from None
    except yaml.reader.ReaderError as error:
        message = f"not valid YAML: found the character U+{error.character:04X}"
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(source, [Problem((), message, line=line)]) from None


class _StructureCheck:
    """Finds what PyYAML accepts and we do not: duplicate keys, keys that are no names, an alias of
    a group inside itself, and aliases that repeat more values than memory can hold."""

    def __init__(self, loader: _Loader) -> None:
        self.problems: list[Problem] = []
        self._loader = loader
        self._counts: dict[int, int | None] = {}
        """id of each group visited so far -> its values; None during the visit."""

    def count(self, node: yaml.Node, path: KeyPath) -> int:
        """Return the number of values in a node; note problems."""
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) in self._counts:
            known = self._counts[id(node)]
            if known is None:
                message = "found an alias of the mapping or list that contains it"
                self.problems.append(Problem(path, message))
            return known or 0
        self._counts[id(node)] = None
        lines: dict[Any, int] = {}
        total = 1
        for key, line, value in _children(self._loader, node):
            if isinstance(key, float | bool) or key is None:
                found = "nothing" if key is None else str(key).lower()
                message = f"found {found} as a key; expected a name, in quotes if it is meant so"
                self.problems.append(Problem(path, message, line=line))
            part = key if isinstance(key, int) and not isinstance(key, bool) else str(key)
            if key in lines:
                first = "" if lines[key] == line else f"; first given on line {lines[key]}"
                self.problems.append(Problem((*path, part), f"duplicate key{first}", line=line))
            if key != MERGE:
                lines.setdefault(key, line)
            total += 1 + self.count(value, (*path, part))
        self._counts[id(node)] = total
        return total


MERGE = "<<"


def _children(loader: _Loader, node: yaml.Node) -> Iterator[tuple[Any, int, yaml.Node]]:
    """Yield key or index, line number and node of each entry of a group."""
    if isinstance(node, yaml.SequenceNode):
        yield from ((i, item.start_mark.line + 1, item) for i, item in enumerate(node.value))
        return
    for key, value in node.value:
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode):
            merges = key.tag == f"{TAG}merge"
            yield MERGE if merges else _name(loader.construct_object(key)), line, value


def _name(key: Any) -> Any:
    """Return a key; an integer as a string."""
    return str(key) if type(key) is int else key


def _find_child(node: yaml.Node, part: str | int) -> tuple[yaml.Node, int] | None:
    """Return the node at a key or an index, and its line number."""
    if isinstance(node, yaml.MappingNode):
        for key, value in reversed(node.value):  # entries from a merge key come first
            if isinstance(key, yaml.ScalarNode) and key.value == str(part):
                return value, key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode) and part in range(len(node.value)):
        item = node.value[int(part)]
        return item, item.start_mark.line + 1
    return None
