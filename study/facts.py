"""The facts of a cell that expressions name, and the settings in which expressions have values.

Facts, keys and derived settings depend on each other: the steps of `tokens: 20N` need the global
batch, whose batch size may be an expression of the GPU count. Each is computed when it is first
needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from study.expressions import (
    ExpressionError,
    evaluate,
    is_expression,
    names_in,
    parse_expression,
    to_whole,
)
from trainer.config import ModelConfig, RunConfig, TokenizerConfig, global_batch
from trainer.flops import ParameterCount, count_parameters, flops_per_token
from trainer.layers import Layer, Merged
from trainer.problems import ConfigError, KeyPath, Problem
from trainer.settings import default_at, dotted_keys, number_at, suggest, validate
from trainer.yaml_files import shorten

AXES_AS_FACTS = ("cluster", "model", "gpus", "nodes", "trainer", "variant", "seed")
"""Facts that are known before any setting."""

FACTS: dict[str, Callable[["CellFacts"], Any]] = {
    "params": lambda facts: facts.parameters.total,
    "params_without_embedding": lambda facts: facts.parameters.without_embedding,
    "dim": lambda facts: facts.number("model.dim"),
    "n_layers": lambda facts: facts.number("model.n_layers"),
    "seq_len": lambda facts: facts.number("data.seq_len"),
    "steps": lambda facts: facts.number("steps"),
    "global_batch": lambda facts: facts.global_batch,
    "tokens_per_step": lambda facts: facts.global_batch * facts.number("data.seq_len"),
    "tokens": lambda facts: facts.lookup("steps") * facts.lookup("tokens_per_step"),
    "flops_per_token": lambda facts: facts.flops_per_token,
    "flops": lambda facts: facts.lookup("tokens") * facts.flops_per_token,
}
"""Fact -> its value."""

Derive = Callable[["CellFacts"], Layer]
"""Returns settings that are computed from others."""


class NotKnownError(Exception):
    """A fact that cannot be computed, as a setting that it needs is invalid or has no value."""


def find_unreadable(tokenizer: TokenizerConfig) -> Problem | None:
    """Return what is wrong with a tokenizer's file if the number of token ids is read from it."""
    try:
        _ = tokenizer.vocab_size
    except ConfigError as error:
        message = f"{error.source}: {error.problems[0].message}"
        return Problem(("data", "tokenizer", "path"), message)
    return None


class CellFacts:
    """The settings of one cell, in which expressions are replaced by their values."""

    def __init__(
        self,
        settings: Merged,
        axes: Mapping[str, Any],
        derived: Mapping[tuple[KeyPath, ...], Derive],
    ) -> None:
        """`axes` has a value for each of `AXES_AS_FACTS`; `derived` are keys that follow from other
        settings, whatever is written there."""
        self.settings = settings
        self.gpus: int = axes["gpus"]
        self._axes = axes
        self._derived = {key: (keys, derive) for keys, derive in derived.items() for key in keys}
        self._texts = _find_expressions(settings.values)
        self._active: list[KeyPath] = []
        self._settled: set[KeyPath] = set()
        self._origins: dict[KeyPath, str] = {}
        """Origin of each setting with an expression -> its text."""
        self._not_known: set[KeyPath] = set()
        self._failed: dict[KeyPath, Problem] = {}
        """Problem with each expression that has no value."""
        self._problems: list[Problem] = []

    @property
    def has_expressions(self) -> bool:
        """Whether a setting is computed from what its expression names, which may be any axis."""
        return bool(self._texts)

    def settle(self) -> Merged:
        """Return the settings with all expressions replaced by their values.

        One without a value stays as it is.
        """
        for path in [*self._texts, *self._derived]:
            try:
                self._settle(path)
            except (NotKnownError, ExpressionError):
                self._not_known.add(self._origin(path))
        self._problems += self._failed.values()
        return self.settings

    def problems(self, refused: Sequence[Problem] = ()) -> list[Problem]:
        """Return the problems with the settled settings: expressions without a value, and those
        that were found in validation, with the expression of each refused value.

        Without those that only say that an expression has no value, as another setting is invalid.
        """
        told = [problem for problem in refused if problem.path not in self._not_known]
        found = [*self._problems, *map(self._explain, told)]
        return list(dict.fromkeys(found)) or list(refused)

    def _explain(self, problem: Problem) -> Problem:
        text = self._origins.get(problem.path)
        if text is None:
            return problem
        return replace(problem, message=f"{problem.message} (the value of '{shorten(text)}')")

    def evaluate(self, text: str) -> Any:
        """Return the value of an expression.

        Raises ExpressionError if it has none, NotKnownError if a setting that it needs is invalid.
        """
        tree = parse_expression(text)
        for name in names_in(tree):
            if not is_name(name):
                raise ExpressionError(f"unknown name '{shorten(name)}'; {_suggest(name)}")
        return evaluate(tree, self.lookup)

    def lookup(self, name: str) -> Any:
        """Return the value of a fact or of a dotted key."""
        if name in self._axes:
            return self._axes[name]
        if name in FACTS:
            return FACTS[name](self)
        return self.value(tuple(name.split(".")))

    def value(self, path: KeyPath) -> Any:
        """Return the value of a key, or its default."""
        self._settle(path)
        return _get(self.settings.values, path, default_at(RunConfig, path))

    def number(self, key: str) -> Any:
        """Return the value of a dotted key that has to be a positive number."""
        value = self.value(tuple(key.split(".")))
        if type(value) not in (int, float) or not 0 < value < float("inf") or value != int(value):
            raise NotKnownError(key)
        return int(value)

    def as_written(self, path: KeyPath) -> Any:
        """Return the value of a key before it is derived from others, or its default."""
        self._evaluate(path)
        return _get(self.settings.values, path, default_at(RunConfig, path))

    @property
    def parameters(self) -> ParameterCount:
        """The parameter count of the model."""
        return count_parameters(self._model, self._vocab_size)

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs for each token, as in MFU."""
        return flops_per_token(self._model, self._vocab_size, self.number("data.seq_len"))

    @property
    def global_batch(self) -> int:
        """Sequences of one optimizer step over all GPUs."""
        return global_batch(
            self.number("data.batch_size"),
            self.number("grad_acc_steps"),
            self.gpus,
            self.number("distributed.tp_size"),
        )

    @property
    def _model(self) -> ModelConfig:
        values = self._group(("model",))
        return _validated(lambda: validate(ModelConfig, values, "model"))

    @property
    def _tokenizer(self) -> TokenizerConfig:
        values = self._group(("data", "tokenizer"))
        return _validated(lambda: validate(TokenizerConfig, values, "data.tokenizer"))

    @property
    def _vocab_size(self) -> int:
        tokenizer = self._tokenizer
        problem = find_unreadable(tokenizer)
        if problem is not None:
            self._problems.append(self.settings.trace(problem))
            raise NotKnownError(str(problem))
        return tokenizer.vocab_size

    def _group(self, group: KeyPath) -> Any:
        for path in self._texts:
            if path[: len(group)] == group:
                self._settle(path)
        found = _get(self.settings.values, group)
        return {} if found is None else found

    def _settle(self, path: KeyPath) -> None:
        """Compute the value of a key if it is an expression or derived, and what it needs."""
        if path in self._settled or not (path in self._texts or path in self._derived):
            return
        if path in self._failed:
            raise NotKnownError(path)
        if path in self._active:
            cycle = [".".join(map(str, key)) for key in (*self._active, path)]
            raise ExpressionError(f"depends on itself: {' -> '.join(cycle)}")
        self._active.append(path)
        try:
            if path in self._derived:
                keys, derive = self._derived[path]
                self.settings = self.settings.over(derive(self))
                self._settled.update(keys)
            else:
                self._evaluate(path)
        except ConfigError as error:
            self._problems += error.problems
            raise NotKnownError(path) from None
        except ExpressionError as error:
            if path not in self._texts:
                raise  # it is that of the expression that needs this setting
            message = f"{error} (in '{shorten(self._texts[path])}')"
            self._failed[path] = self.settings.trace(Problem(path, message))
            raise NotKnownError(path) from None
        finally:
            self._active.pop()
        self._settled.add(path)

    def _evaluate(self, path: KeyPath) -> None:
        """Replace the expression at a key by its value; do nothing if it has none."""
        text = self._texts.get(path)
        if text is None or _get(self.settings.values, path) != text:
            return
        value = self.evaluate(text)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ExpressionError("its value is not a number")
        if number_at(RunConfig, path) is int:
            value = to_whole(value)
        self._origins[self._origin(path)] = text
        self.settings = self.settings.with_value(path, value)

    def _origin(self, path: KeyPath) -> KeyPath:
        return self.settings.trace(Problem(path, "")).path


def _suggest(name: str) -> str:
    """Return what may be meant by an unknown name: a similar one, or a list of the facts."""
    similar = suggest(name, _all_names())
    if similar.startswith("did you mean"):
        return similar
    return f"expected a key such as optim.lr, or one of {', '.join((*AXES_AS_FACTS, *FACTS))}"


def is_name(name: str) -> bool:
    """Say whether a name in an expression is a fact or a dotted key of a run.yaml."""
    return name in _all_names() or number_at(RunConfig, tuple(name.split("."))) is not None


@cache
def _all_names() -> tuple[str, ...]:
    keys = (key for key in dotted_keys(RunConfig) if "." in key or key == "grad_acc_steps")
    return (*AXES_AS_FACTS, *FACTS, *keys)


def _find_expressions(values: Any, path: KeyPath = ()) -> dict[KeyPath, str]:
    """Return key -> text of each expression in place of a number."""
    if isinstance(values, Mapping):
        below = (_find_expressions(item, (*path, key)) for key, item in values.items())
        return {key: text for found in below for key, text in found.items()}
    if not isinstance(values, str) or number_at(RunConfig, path) is None:
        return {}
    return {path: values} if is_expression(values, is_name) else {}


def _get(values: Any, path: KeyPath, default: Any = None) -> Any:
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return default
        values = values[part]
    return values


def _validated(build: Callable[[], Any]) -> Any:
    try:
        return build()
    except ConfigError as error:
        raise NotKnownError(str(error)) from None
