"""Problems with the user's settings: the key, the message, the file and the line."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

KeyPath = tuple[str | int, ...]
"""The keys and list indices that lead to a setting."""

LONGEST_KEY = 1000
"""Most characters of a key in a message; beyond all names of files and folders."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the settings.

    It is printed as `key: message`. If the message begins with "= ", the key is its subject:
    `n_heads = 7 does not divide dim = 64`.
    """

    path: KeyPath
    """The key to blame; empty if the problem is not with a key."""
    message: str
    """What was found, and what was expected."""
    others: tuple[KeyPath, ...] = field(default=(), compare=False)
    """Other keys that the broken rule involves, which may be the ones to change."""
    source: str | None = None
    """Name of the file in which the key is written, or "command line"; None if unknown."""
    line: int | None = None
    """Line number in that file."""

    def __str__(self) -> str:
        line = "" if self.line is None else f"line {self.line}: "
        return line + _join(format_path(self.path), self.message)

    def blame(self, path: KeyPath) -> "Problem":
        """Return the problem with another of the involved keys to blame."""
        pairs = zip(self.path, path, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        message = _join(format_path(self.path[shared:]), self.message)
        return replace(self, path=path, message=message, others=())


class RuleError(ValueError):
    """Settings that together break a rule; raised by validators of settings classes."""

    def __init__(self, keys: Sequence[str], message: str) -> None:
        """`keys`: those that the rule involves, dotted, relative to the class. The first is the
        subject of the message, see `Problem`."""
        self.keys = tuple(tuple(key.split(".")) for key in keys)
        self.message = message
        super().__init__(str(self.problem()))

    def problem(self, at: KeyPath = ()) -> Problem:
        """Return the problem for settings whose own key is `at`."""
        first, *others = ((*at, *key) for key in self.keys)
        return Problem(first, self.message, tuple(others))


class ConfigError(ValueError):
    """Problems with a file or command line of the user.

    Commands print it without a traceback and exit with code 1.
    """

    def __init__(self, source: str, problems: Sequence[Problem | str]) -> None:
        """`source`: the file of problems without one. A string is a problem without a key."""
        self.source = source
        self.problems = tuple(
            problem if isinstance(problem, Problem) else Problem((), problem)
            for problem in problems
        )
        text = "\n".join(_describe(source, self.problems))
        # A command line may hold bytes that are no text.
        super().__init__(text.encode(errors="backslashreplace").decode())


def unreadable(path: object, error: Exception, context: str = "") -> ConfigError:
    """Return the error for a file or folder that cannot be read."""
    reason = getattr(error, "strerror", None) or error
    return ConfigError(str(path), [f"{context}cannot be read: {reason}"])


def combine(errors: Sequence[ConfigError]) -> ConfigError:
    """Return one error with the problems of all of `errors`."""
    problems = [
        replace(problem, source=problem.source or error.source)
        for error in errors
        for problem in error.problems
    ]
    return ConfigError(errors[0].source, problems)


def format_path(path: Sequence[str | int]) -> str:
    """Return `grid[0].model` for `("grid", 0, "model")`, a very long key with an ellipsis."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = part if len(part) <= LONGEST_KEY else f"{part[:LONGEST_KEY]}..."
            text += f".{shown}" if text else shown
    return text


def _join(key: str, message: str) -> str:
    if not key:
        return message
    return f"{key} {message}" if message.startswith("= ") else f"{key}: {message}"


def _describe(source: str, problems: Sequence[Problem]) -> list[str]:
    """Return the lines of the message: problems grouped by file, and sorted by line number."""
    groups: dict[str, list[Problem]] = {}
    for problem in sorted(problems, key=lambda problem: (problem.source or source) != source):
        groups.setdefault(problem.source or source, []).append(problem)
    lines = []
    for name, group in groups.items():
        lines.append(f"{name}: {len(group)} problem" + ("" if len(group) == 1 else "s"))
        lines += [f"  {problem}" for problem in sorted(group, key=lambda item: item.line or 0)]
    return lines
