"""Expressions in a study file, such as `3e-3 * (params / 1e8) ** -0.25`.

They are parsed with Python's grammar, of which only the nodes below are allowed, and computed node
by node: nothing in a study file is ever run as code.
"""

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from trainer.yaml_files import shorten

LONGEST = 300
"""Most characters of an expression."""

LARGEST_EXACT = 2**53
"""Integers up to this are exact as floats."""

PERCENT_OF = re.compile(r"([0-9]+(?:\.[0-9]*)?)\s*%\s*of\b")
"""`2% of steps`."""

AFTER_DIVISION = re.compile(rf"(?:/|%|\*\*)\s*{PERCENT_OF.pattern}")
"""`steps / 2% of tokens`: the operator would take the 2 alone."""

PERCENT_ALONE = re.compile(r"[0-9]+(?:\.[0-9]*)?\s*%")
"""`2%`, of nothing."""

ONLY_IN_EXPRESSIONS = re.compile(r"[-+*/%()<>=]")
"""Characters that no number and no name contains, apart from a number's sign."""

ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, exponent: _power(base, exponent),
}

ORDER: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
"""Comparisons of numbers; the others compare any values."""

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "round": lambda value: to_whole(value),
    "floor": math.floor,
    "ceil": math.ceil,
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
}

WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}
"""YAML's constants; Python's own spellings are constants of its grammar."""

ALLOWED = (
    f"numbers, names, + - * / // % ** ( ), comparisons, and, or, not, if-else, in, and the "
    f"functions {', '.join(FUNCTIONS)}"
)

Lookup = Callable[[str], Any]
"""Name or dotted key -> its value."""


class ExpressionError(ValueError):
    """An expression that cannot be parsed or has no value."""


def is_expression(text: str, is_name: Callable[[str], bool]) -> bool:
    """Say whether a string in place of a number is meant as an expression: it is one of the names,
    or contains an operator and is not a number in quotes."""
    try:
        float(text)
    except ValueError:
        return is_name(text.strip()) or ONLY_IN_EXPRESSIONS.search(text) is not None
    return False


@cache
def parse_expression(text: str) -> ast.expr:
    """Return the syntax tree of an expression. Raises ExpressionError if it is not one."""
    if len(text) > LONGEST:
        raise ExpressionError(f"more than {LONGEST} characters; expected a short expression")
    if PERCENT_ALONE.fullmatch(text.strip()):
        raise ExpressionError(f"a percentage of what? expected e.g. `{text.strip()} of steps`")
    if AFTER_DIVISION.search(text):
        expected = "it in parentheses, as in `steps / (2% of tokens)`"
        raise ExpressionError(f"found a percentage after /, % or **; expected {expected}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about literals such as `1or`
            tree = ast.parse(PERCENT_OF.sub(r"\1 / 100 *", text).strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "nested too deeply"
        raise ExpressionError(f"not an expression ({reason}); expected {ALLOWED}") from None
    for node in _nodes(tree):
        _check(node)
    return tree


def names_in(tree: ast.expr) -> list[str]:
    """Return the names and dotted keys of an expression, in its order."""
    names = [_name(node) for node in _nodes(tree) if isinstance(node, ast.Name | ast.Attribute)]
    return [name for name in dict.fromkeys(names) if name not in WORDS]


def evaluate(tree: ast.expr, lookup: Lookup) -> Any:
    """Return the value of an expression. Raises ExpressionError if it has none.

    Only the names that decide about the value are looked up: `a and b` does not look at b if a is
    false.
    """
    try:
        value = _value(tree, lookup)
    except ZeroDivisionError:
        raise ExpressionError("divides by zero") from None
    except OverflowError:
        raise ExpressionError("its value is too large") from None
    except ExpressionError:
        raise
    except ValueError:  # such as the logarithm of a negative number
        raise ExpressionError("has no value here; a function is not defined there") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ExpressionError("its value is too large")
    return value


def to_whole(value: float) -> int:
    """Return the nearest whole number, the larger one of two."""
    return value if isinstance(value, int) else math.floor(value + 0.5)


def percentage(percent: float | str, whole: float) -> float:
    """Return a percentage of a number; of a whole number exactly: 7 / 100 * 100 is more than 7."""
    if not isinstance(whole, int):
        return float(percent) / 100 * whole
    return float(Fraction(str(percent)) * whole / 100)


def _nodes(tree: ast.expr) -> Iterator[ast.expr]:
    """Yield the nodes that have a value; a dotted key is one of them, and so is a call."""
    yield tree
    below: list[ast.expr] = []
    match tree:
        case ast.BinOp(left=left, right=right):
            below = [left, right]
        case ast.UnaryOp(operand=operand):
            below = [operand]
        case ast.BoolOp(values=values) | ast.List(elts=values) | ast.Tuple(elts=values):
            below = values
        case ast.Compare(left=left, comparators=others):
            below = [left, *others]
        case ast.IfExp(test=test, body=body, orelse=orelse):
            below = [test, body, orelse]
        case ast.Call(args=arguments):
            below = arguments
    for node in below:
        yield from _nodes(node)


def _check(node: ast.expr) -> None:
    """Raise ExpressionError if a node is not allowed."""
    match node:
        case ast.BinOp(op=op):
            allowed = type(op) in ARITHMETIC
        case ast.UnaryOp(op=op):
            allowed = isinstance(op, ast.UAdd | ast.USub | ast.Not)
        case ast.Compare(ops=ops):
            allowed = not any(isinstance(op, ast.Is | ast.IsNot) for op in ops)
        case ast.Constant(value=value):
            allowed = value is None or isinstance(value, bool | int | float | str)
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            allowed = name in FUNCTIONS
        case ast.Attribute():
            allowed = bool(_name(node))
        case _:
            allowed = isinstance(node, ast.BoolOp | ast.IfExp | ast.Name | ast.List | ast.Tuple)
    if not allowed:
        found = shorten(ast.unparse(node))
        raise ExpressionError(f"found '{found}'; expected {ALLOWED}")


def _name(node: ast.expr) -> str:
    """Return the dotted name of a node; empty if it is something else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = _name(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def _value(node: ast.expr, lookup: Lookup) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            name = _name(node)
            return WORDS[name] if name in WORDS else lookup(name)
        case ast.BinOp(
            op=ast.Mult(),
            left=ast.BinOp(op=ast.Div(), left=percent, right=ast.Constant(value=100)),
            right=whole,
        ):
            return percentage(_number(percent, lookup), _number(whole, lookup))
        case ast.BinOp(left=left, op=op, right=right):
            return ARITHMETIC[type(op)](_number(left, lookup), _number(right, lookup))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _truth(operand, lookup)
        case ast.UnaryOp(op=op, operand=operand):
            number = _number(operand, lookup)
            return -number if isinstance(op, ast.USub) else number
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_truth(value, lookup) for value in values)
        case ast.BoolOp(values=values):
            return any(_truth(value, lookup) for value in values)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _value(body if _truth(test, lookup) else orelse, lookup)
        case ast.Compare():
            return _compare(node, lookup)
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _call(name, [_number(argument, lookup) for argument in arguments])
        case ast.List(elts=values) | ast.Tuple(elts=values):
            return [_value(value, lookup) for value in values]
    raise AssertionError(f"not checked: {ast.dump(node)}")


def _compare(node: ast.Compare, lookup: Lookup) -> bool:
    left = node.left
    for op, right in zip(node.ops, node.comparators, strict=True):
        if type(op) in ORDER:
            holds = ORDER[type(op)](_number(left, lookup), _number(right, lookup))
        else:
            first, second = _value(left, lookup), _value(right, lookup)
            if isinstance(op, ast.In | ast.NotIn):
                if not isinstance(second, list):
                    found = shorten(ast.unparse(right))
                    raise ExpressionError(f"found '{found}' after in; expected a list")
                holds = (first in second) == isinstance(op, ast.In)
            else:
                holds = (first == second) == isinstance(op, ast.Eq)
        if not holds:
            return False
        left = right
    return True


def _call(name: str, values: list[Any]) -> Any:
    several = name in ("min", "max")
    if len(values) != 1 and not (several and values):
        expected = "at least one number" if several else "one number"
        raise ExpressionError(f"{name} takes {expected}, found {len(values)}")
    return FUNCTIONS[name](values) if several else FUNCTIONS[name](*values)


def _power(base: float, exponent: float) -> float:
    """Return base ** exponent without computing integers of a million digits."""
    if base < 0 and exponent != int(exponent):
        raise ExpressionError("raises a negative number to a fraction")
    value = float(base) ** float(exponent)
    whole = isinstance(base, int) and isinstance(exponent, int) and exponent >= 0
    return base**exponent if whole and abs(value) <= LARGEST_EXACT else value


def _number(node: ast.expr, lookup: Lookup) -> Any:
    value = _value(node, lookup)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionError(f"'{shorten(ast.unparse(node))}' is {_kind(value)}, not a number")
    if isinstance(value, int) and abs(value) > LARGEST_EXACT**2:
        raise ExpressionError("its value is too large")
    return value


def _truth(node: ast.expr, lookup: Lookup) -> bool:
    value = _value(node, lookup)
    if not isinstance(value, bool):
        raise ExpressionError(f"'{shorten(ast.unparse(node))}' is {_kind(value)}, not a condition")
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return "a list" if isinstance(value, list) else repr(value) if value == value else "nan"
