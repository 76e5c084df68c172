"""What another trainer's log tells while it is being written: steps, losses, speeds, validation.

A value that the log does not have, or that cannot be read, is None: a malformed line of a log is no
reason to end a run.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from study.measure.log_values import Values


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An interval of training, which ends at a step."""

    step: int
    """Optimizer steps taken so far."""
    loss: float | None = None
    """Training loss, nats per token; NaN if the log says so."""
    rate: float | None = None
    """Learning rate."""
    grad_norm: float | None = None
    tokens: int | None = None
    """Tokens of all steps so far."""
    memory_gib: float | None = None
    """Peak memory of a GPU, GiB."""
    step_s: float | None = None
    """Time of a step, s: the interval's mean, or the last step's."""
    elapsed_s: float | None = None
    """Since a start of the trainer's own clock, s."""
    paused: bool = False
    """Its times include an evaluation, a checkpoint or a start."""
    came_s: float | None = None
    """When its line came, s since the start of the attempt; None: now."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A validation."""

    step: int
    """Optimizer steps taken before it."""
    loss: float | None = None
    """Nats per token."""
    bits_per_byte: float | None = None
    came_s: float | None = None
    """As that of an entry."""


Event = Entry | Validation


@dataclass(frozen=True)
class Shape:
    """What of a run is needed to read speeds and steps."""

    tokens_per_step: int
    gpus: int


@dataclass(frozen=True)
class Lines:
    """A log that grows by lines."""

    read: Callable[[str], Values | None]
    """Returns the values in a line; None if it has none."""
    marks_saves: bool = False
    """Whether the log says in which intervals checkpoints were saved."""
    steps_alone: bool = False
    """Whether a line of training may have nothing but the step; other values may follow it."""


@dataclass(frozen=True)
class Whole:
    """A log that is replaced as a whole."""

    read: Callable[[str, Shape], Iterable[Event]]
    """Yields what its content tells; nothing if it is incomplete."""


class LineReader:
    """Reads a log line by line."""

    def __init__(self, lines: Lines, shape: Shape) -> None:
        self._read, self._shape = lines.read, shape
        self._last, self._paused = 0, False
        self._joins = lines.steps_alone  # until a line has a step and values of training
        self._begun: tuple[int, Values, float | None] | None = None
        """A step whose values may follow, and when it came."""

    def feed(self, line: str, came_s: float | None = None) -> Iterator[Event]:
        """Yield what is known now that a line has come, at `came_s`."""
        values = self._read(line)
        if values is None:
            return
        step = count(values.get("step"))
        validation = values.get("validation_loss")
        bits = values.get("validation_bits_per_byte")
        if values.keys() >= {"pauses"}:
            self._paused = True
        if validation is not None or bits is not None:
            self._paused = True
            at = self._last if step is None else step
            yield Validation(step=at, loss=validation, bits_per_byte=bits, came_s=came_s)
        is_training = bool(values.keys() - {"step", *NOT_OF_TRAINING})
        if step is not None and is_training:
            self._joins, self._begun = False, None
            yield self._make(step, values, came_s)
        elif self._joins and step is not None and values.keys() == {"step"}:
            yield from self.close()
            self._begun = (step, values, came_s)
        elif self._begun is not None and is_training:
            begun, known, came_s = self._begun
            self._begun = (begun, {**values, **known}, came_s)

    def close(self) -> Iterator[Event]:
        """Yield the last step, if more of its values might have followed."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            yield self._make(*begun)

    def _make(self, step: int, values: Values, came_s: float | None) -> Entry:
        paused, self._paused = self._paused, False
        self._last = step
        return make_entry(step, values, self._shape, paused, came_s)


class WholeReader:
    """Reads a log each time that it was replaced."""

    def __init__(self, whole: Whole, shape: Shape) -> None:
        self._read, self._shape = whole.read, shape
        self._seen: list[Event] = []

    def feed(self, text: str) -> list[Event]:
        """Return what is new in a log: after a resume, it begins with what it had at the
        checkpoint."""
        events = list(self._read(text, self._shape))
        pairs = zip(events, self._seen, strict=False)
        same = next((i for i, (new, old) in enumerate(pairs) if new != old), None)
        kept = min(len(events), len(self._seen)) if same is None else same
        if len(events) < len(self._seen) and same is None:
            return []  # an earlier part of it: a new attempt has not added anything yet
        self._seen = events
        return events[kept:]


NOT_OF_TRAINING = ("validation_loss", "validation_bits_per_byte", "pauses")
"""Values that do not make a line one of training."""


def make_entry(
    step: int, values: Values, shape: Shape, paused: bool = False, came_s: float | None = None
) -> Entry:
    """Return an entry of the values in a log."""
    return Entry(
        step=step,
        loss=values.get("loss"),
        rate=values.get("lr"),
        grad_norm=values.get("grad_norm"),
        tokens=count(values.get("tokens")),
        memory_gib=values.get("memory_gib"),
        step_s=_step_s(values, shape),
        elapsed_s=values.get("elapsed_s"),
        paused=paused,
        came_s=came_s,
    )


def _step_s(values: Values, shape: Shape) -> float | None:
    """Return the time of a step, s, from whichever speed a log has."""
    for name, factor in (("step_s", 1.0), ("step_ms", 1e-3)):
        value = values.get(name)
        if value is not None and 0 < value < float("inf"):
            return value * factor
    for name, gpus in (("tokens_per_s", 1), ("tokens_per_s_per_gpu", shape.gpus)):
        value = values.get(name)
        if value is not None and 0 < value < float("inf"):
            return shape.tokens_per_step / (value * gpus)
    return None


MOST = 2**40
"""Above all counts of steps; larger numbers are no counts."""


def count(value: float | None) -> int | None:
    """Return a value as a count; None if it is none."""
    if value is None or not 0 <= value < MOST:
        return None
    return int(value) if value == int(value) else None
