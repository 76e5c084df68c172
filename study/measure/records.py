"""The records of a run in columns, read line by line: a run may have a million of them."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import compress
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

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic depends on it, and takes no other on Python 3.11

from trainer.json_files import parse_json
from trainer.problems import ConfigError
from trainer.records import Evaluation, Record
from trainer.settings import validate
from trainer.yaml_files import shorten


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


TYPES = {name: "q" if kind is int else "d" for name, kind in Interval.__annotations__.items()}
"""Column -> type code of its array: 64-bit integers or floats."""

NAN = float("nan")

IN_64_BITS = Field(ge=-(2**62), le=2**62)
"""For the fast reader: beyond, it matters whether a number is written as an integer."""

LineT = TypeVar("LineT", Record, Evaluation)


class Records(Sequence[Interval]):
    """Intervals by ascending step. Each column is an array, which numpy takes without a copy."""

    def __init__(self, records: Iterable[Record | Interval] = ()) -> None:
        self._columns: dict[str, array[Any]] = {name: array(code) for name, code in TYPES.items()}
        for record in records:
            self.append({name: getattr(record, name) for name in TYPES})

    def append(self, values: dict[str, Any]) -> None:
        """Add the values of a `Record`. Raises OverflowError for an integer beyond 64 bits."""
        for name, column in self._columns.items():
            value = values.get(name)
            column.append(NAN if value is None else value)

    def column(self, name: str) -> "array[Any]":
        """Return the values of a field of `Interval`."""
        return self._columns[name]

    def where(self, chosen: Iterable[bool]) -> "Records":
        """Return the intervals for which `chosen` is true."""
        found, wanted = Records(), list(chosen)
        for name, column in self._columns.items():
            found._columns[name] = array(TYPES[name], compress(column, wanted))
        return found

    def __len__(self) -> int:
        return len(self._columns["step"])

    @overload
    def __getitem__(self, index: int) -> Interval: ...
    @overload
    def __getitem__(self, index: slice) -> list[Interval]: ...
    def __getitem__(self, index: int | slice) -> Interval | list[Interval]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Interval(*(column[index] for column in self._columns.values()))

    def __iter__(self) -> Iterator[Interval]:
        return map(Interval._make, zip(*self._columns.values(), strict=True))


def read_records(path: Path) -> Records:
    """Return the records in a metrics.jsonl; none if it does not exist yet. Raises ConfigError.

    An incomplete last line is skipped. A line takes 3 microseconds.
    """
    records = Records()
    if not path.exists():
        return records
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
            records.append(values)
    return records


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


def as_object(data: Any, source: str) -> dict[str, Any]:
    """Return a JSON object. Raises ConfigError for any other value."""
    if not isinstance(data, dict):
        raise ConfigError(source, [f"expected a JSON object, found {shorten(data)}"])
    return data


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
