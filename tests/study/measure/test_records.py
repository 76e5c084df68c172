"""The fast reader of metrics.jsonl accepts and returns what `Record` does, and streams."""

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from study.measure import records
from study.measure.records import Interval, read_records
from trainer.problems import ConfigError
from trainer.records import Record
from trainer.settings import validate

LINE: dict[str, Any] = {
    "global_step": 10,
    "loss/out": 3.5,
    "optim/lr": 1e-3,
    "optim/total_tokens": 10_240,
    "time/elapsed_s": 12.5,
    "time/step_s": 0.25,
    "time/interval_steps": 10,
    "machine/load": None,
    "attempt": 1,
}

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=3),
    st.integers(-3, 3),
    st.integers(2**62, 2**65),
    st.floats(),
    st.just([]),
    st.just({"rank": 3, "host": "node-3", "part": "forward", "share": 0.4}),
)

NAMES = [field.alias or name for name, field in Record.model_fields.items()]
"""Keys of a line."""


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(changes=st.dictionaries(st.sampled_from([*NAMES, "new"]), VALUES))
@example(changes={"loss/out": math.nan})
@example(changes={"optim/total_tokens": 2**63, "attempt": 2**63})
@example(changes={"global_step": 2**63})
def test_a_line_is_read_as_its_class_reads_it(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(LINE | changes) + "\n")
    values = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in (LINE | changes).items()
    }
    try:
        expected = validate(Record, values, "line")
    except ConfigError:
        with pytest.raises(ConfigError):
            read_records(path)
        return
    (found,) = read_records(path)
    for name in Interval._fields:
        value = getattr(expected, name)
        assert getattr(found, name) == value or (value is None and math.isnan(getattr(found, name)))


def test_lines_of_the_trainer_are_left_to_the_fast_reader(tmp_path: Path) -> None:
    """With and without a slow rank; the other reader takes many times as long."""
    path = tmp_path / "metrics.jsonl"
    slow = {"rank": 3, "host": "node-3", "part": "forward", "share": 0.4}
    lines = [LINE, LINE | {"global_step": 20, "ranks/slow": slow}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with patch.object(records, "parse_line", side_effect=AssertionError):
        assert [item.step for item in read_records(path)] == [10, 20]


def test_only_columns_are_kept_in_memory(tmp_path: Path) -> None:
    """20,000 lines of 180 bytes: 11 columns of one to four bytes, and one block of lines."""
    path = tmp_path / "metrics.jsonl"
    with path.open("w") as file:
        for step in range(1, 20_001):
            print(json.dumps(LINE | {"global_step": step, "time/step_s": step / 2}), file=file)
    first = path.read_text().partition("\n")[0]
    (tmp_path / "warm.jsonl").write_text(f"{first}\n")
    read_records(tmp_path / "warm.jsonl")
    tracemalloc.start()
    found = read_records(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5e6 < path.stat().st_size
    assert (len(found), found[-1].step, sum(found.column("step_s"))) == (
        20_000,
        20_000,
        1e8 + 5e3,
    )


@given(
    st.lists(
        st.tuples(
            st.integers(1, 2**62), st.none() | st.floats(0, allow_infinity=False), st.booleans()
        ),
        max_size=20,
    )
)
def test_narrow_columns_lose_nothing(values: list[tuple[int, float | None, bool]]) -> None:
    """In blocks of four, of which each may have a type of its own."""
    names = ("interval_steps", "machine_load", "paused")
    lines = [
        dict.fromkeys(Interval._fields, 1) | dict(zip(names, line, strict=True)) for line in values
    ]
    with patch.object(records, "BLOCK", 4):
        found = records.Records(lines)
    for name, expected in zip(names, zip(*values, strict=True), strict=False):
        column = found.column(name)
        assert column.dtype == records.TYPES[name]
        assert np.array_equal(column, np.array(expected, column.dtype), equal_nan=True)
        assert [type(getattr(item, name)) for item in found] == [type(x) for x in column.tolist()]
