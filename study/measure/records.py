"""The records of a run in columns, read line by line: a run may have a million of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    NamedTuple,
    NotRequired,
    TypeVar,
    Union,
    get_args,
    get_origin,
    overload,
)

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic depends on it, and takes no other on Python 3.11

from study.measure.summaries import as_object
from trainer.json_files import parse_json
from trainer.problems import ConfigError
from trainer.records import Evaluation, Record
from trainer.settings import validate


class Interval(NamedTuple):
    """What tables and figures use of a `Record`, under its names; NaN stands for None."""

    step: int
    loss: float
    elapsed_s: float
    step_s: float
    interval_steps: int
    machine_load: float
    paused: float
    attempt: int
    data_s: float
    checkpoint_s: float
    eval_s: float


TYPES: dict[str, type[np.generic]] = {
    name: np.int64 if kind is int else np.float64 for name, kind in Interval.__annotations__.items()
}
"""Column -> type of its values."""

NARROWER: dict[type, tuple[type, ...]] = {
    np.int64: (np.int8, np.int16, np.int32),
    np.float64: (np.float16, np.float32),
}
"""Type of a column -> types of which the first that holds its values takes its place."""

BLOCK = 1024
"""Lines whose values are in memory before they are put into columns."""

IN_64_BITS = Field(ge=-(2**62), le=2**62)
"""For the fast reader: beyond, it matters whether a number is written as an integer."""

LineT = TypeVar("LineT", Record, Evaluation)


class Records(Sequence[Interval]):
    """Intervals by ascending step, each column in the narrowest type that holds its values."""

    def __init__(self, lines: Iterable[Mapping[str, Any]] = ()) -> None:
        """Take the values of each `Record`. Raises OverflowError for an integer beyond 64 bits."""
        blocks: dict[str, list[NDArray[Any]]] = {name: [] for name in TYPES}
        rest = iter(lines)
        while block := list(islice(rest, BLOCK)):
            for name, arrays in blocks.items():
                # None becomes NaN.
                values = np.array([line.get(name) for line in block], TYPES[name])
                # Not worth its time in a short run.
                arrays.append(_narrow(values) if arrays or len(block) == BLOCK else values)
        self._columns = {
            name: np.concatenate(arrays) if arrays else np.empty(0, TYPES[name])
            for name, arrays in blocks.items()
        }

    def column(self, name: str) -> NDArray[Any]:
        """Return the values of a field of `Interval`: a new array of 64-bit integers or floats."""
        return self._columns[name].astype(TYPES[name])

    def __len__(self) -> int:
        return len(self._columns["step"])

    @overload
    def __getitem__(self, index: int) -> Interval: ...
    @overload
    def __getitem__(self, index: slice) -> list[Interval]: ...
    def __getitem__(self, index: int | slice) -> Interval | list[Interval]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Interval(*(column[index].item() for column in self._columns.values()))

    def __iter__(self) -> Iterator[Interval]:
        return map(
            Interval._make, zip(*map(np.ndarray.tolist, self._columns.values()), strict=True)
        )


def begins_attempt(attempts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which intervals are the first of their attempt, of shape (intervals,)."""
    first = np.zeros(len(attempts), bool)
    first[np.unique(attempts, return_index=True)[1]] = True
    return first


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """Return the same values in the narrowest type that holds each of them exactly."""
    for dtype in NARROWER[values.dtype.type]:
        with np.errstate(over="ignore"):
            narrow: NDArray[Any] = values.astype(dtype)
        if np.array_equal(values, narrow, equal_nan=True):
            return narrow
    return values


def read_records(path: Path) -> Records:
    """Return the records in a metrics.jsonl; none if it does not exist yet. Raises ConfigError.

    An incomplete last line is skipped. A line takes 2 to 3 microseconds.
    """
    return Records(_read_lines(path)) if path.exists() else Records()


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the values of each `Record` in a metrics.jsonl. Raises ConfigError."""
    parse, last = _adapter().validator.validate_json, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                values = parse(line)
            except ValidationError:  # or it is valid to a less strict reader, with better messages
                record = parse_line(line, path, number, Record)
                if record is None:
                    break
                values = vars(record)
            check_order(values["step"], last, path, number)
            last = values["step"]
            yield values


def parse_line(line: bytes, path: Path, number: int, cls: type[LineT]) -> LineT | None:
    """Return a line of a JSON Lines file; None if it is incomplete. Raises ConfigError."""
    source = f"{path}, line {number}"
    try:
        data = parse_json(line.removesuffix(b"\n"))
    except ValueError as error:
        # Only a line without its newline can be incomplete: the trainer writes both at once.
        if not line.endswith(b"\n"):
            return None
        raise ConfigError(source, [f"not valid JSON: {error}"]) from None
    return validate(cls, as_object(data, source), source)


def check_order(step: int, last: int, path: Path, number: int) -> None:
    """Raise ConfigError if a step does not follow the last one."""
    if step <= last:
        problem = f"global_step: found {step} after {last}; expected a later step"
        raise ConfigError(f"{path}, line {number}", [problem])


def _in_64_bits(kind: Any) -> Any:
    """Return a type whose numbers have `IN_64_BITS`, before limits of their own, which prevail."""
    if kind in (int, float):
        return Annotated[kind, IN_64_BITS]
    parts = get_args(kind)
    if get_origin(kind) is Annotated:
        return Annotated[_in_64_bits(parts[0]), *parts[1:]]
    if get_origin(kind) in (Union, UnionType):
        return Union[tuple(map(_in_64_bits, parts))]  # noqa: UP007
    return kind


@cache
def _adapter() -> TypeAdapter[Any]:
    """Return a parser of lines that have exactly the types of `Record`, without its Python code."""
    annotated: Any = Annotated
    fields: dict[str, Any] = {}
    for name, field in Record.model_fields.items():
        kind = annotated[_in_64_bits(field.annotation), field]
        fields[name] = kind if field.is_required() else NotRequired[kind]
    make: Any = TypedDict
    line = make("line", fields)
    line.__pydantic_config__ = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
    return TypeAdapter(line)
