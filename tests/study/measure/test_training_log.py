"""The attempts in a log of another trainer, whatever its format."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.measure.training_log import LogRecord, mark_attempts


@settings(max_examples=60)
@given(
    attempts=st.lists(
        st.tuples(st.integers(2, 6), st.integers(2, 5), st.lists(st.booleans(), min_size=9)),
        min_size=1,
        max_size=4,
    ),
    ranks=st.integers(1, 4),
)
def test_attempts_of_several_ranks(attempts: list[tuple[int, int, list[bool]]], ranks: int) -> None:
    """A run that is resumed two or more intervals back; a rank may be late by an interval.

    Not with the first of all, from which the reader knows how many ranks print.
    """
    printed: list[LogRecord] = []
    expected: dict[int, tuple[float, bool]] = {}
    top = 0
    for attempt, (count, back, late) in enumerate(attempts):
        first = max(1, top - back) if attempt else 1
        top = max(top, first + count - 1) if attempt == 0 else max(top + 1, first + count - 1)
        waiting: list[LogRecord] = []
        expected = {step: value for step, value in expected.items() if step < first}
        for index, step in enumerate(range(first, top + 1)):
            record = LogRecord(step, 100.0 * attempt + step, line=1)
            expected[step] = (record.speed, step == first)
            printed += [record] * (ranks - 1)
            is_first = not attempt and not index
            if ranks == 1 or is_first or not late[index % len(late)]:
                printed.append(record)
                printed += waiting
                waiting = []
            else:
                printed += waiting
                waiting = [record]
        printed += waiting
    marked = mark_attempts(printed)
    assert {record.step: (record.speed, record.starts) for record in marked} == expected
    assert [record.step for record in marked] == sorted(expected)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([(10, False)], [(10, True)], id="one record"),
        pytest.param(
            [(10, False), (20, False), (20, True), (30, False)],
            [(10, True), (20, True), (30, False)],
            id="a stated start does the last step again",
        ),
        pytest.param(
            [(10, False), (20, False), (30, True), (40, False)],
            [(10, True), (20, False), (30, True), (40, False)],
            id="a stated start goes on",
        ),
        pytest.param(
            [(10, False), (10, False), (20, False), (30, False), (30, False), (20, False)],
            [(10, True), (20, False), (30, False)],
            id="the last rank to print is late",
        ),
        pytest.param(
            [(10, False), (20, False), (10, False), (30, False), (20, False), (30, False)],
            [(10, True), (20, False), (30, False)],
            id="the second rank is late from the first record on",
        ),
    ],
)
def test_the_first_record_of_each_attempt_is_marked(
    printed: list[tuple[int, bool]], expected: list[tuple[int, bool]]
) -> None:
    marked = mark_attempts(LogRecord(step, 1.0, 1, starts) for step, starts in printed)
    assert [(record.step, record.starts) for record in marked] == expected


class CountedInt(int):
    """An int that counts comparisons."""

    compared = 0

    def _count(name: str) -> Any:  # type: ignore[misc] # noqa: N805
        def compare(self: int, other: int) -> bool:
            CountedInt.compared += 1
            return bool(getattr(int, name)(self, other))

        return compare

    __lt__, __le__, __gt__, __ge__, __eq__ = map(
        _count, ("__lt__", "__le__", "__gt__", "__ge__", "__eq__")
    )
    __hash__ = int.__hash__


@pytest.mark.parametrize("length", [1, 3, 50, 10**9])
def test_attempts_take_time_in_proportion_to_the_log(length: int) -> None:
    """Runs of `length` steps, each of which goes back to nearly its start."""

    def comparisons(records: int) -> int:
        CountedInt.compared = 0
        steps = [index % length + index // (2 * length) for index in range(records)]
        mark_attempts(LogRecord(CountedInt(step), 1.0, 1) for step in steps)
        return CountedInt.compared

    assert comparisons(4000) < 2.2 * comparisons(2000) < 100_000
