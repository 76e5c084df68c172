"""What the lines of other trainers' logs tell, with their oddities; expectations by hand."""

import json
import math
from typing import Any

import pytest

from study.measure.entries import (
    Entry,
    Event,
    LineReader,
    Shape,
    Validation,
    WholeReader,
    count,
    make_entry,
)
from study.measure.foreign_logs import live_reader
from study.measure.log_values import to_number
from study.trainers import LogConfig
from trainer.problems import ConfigError
from trainer.settings import validate

SHAPE = Shape(tokens_per_step=1000, gpus=4)


def log(**settings: Any) -> LogConfig:
    return LogConfig.model_validate(settings)


def read(lines: str, **settings: Any) -> list[Event]:
    reader = live_reader(log(**settings), SHAPE)
    assert isinstance(reader, LineReader)
    events = [event for line in lines.splitlines() for event in reader.feed(line)]
    return [*events, *reader.close()]


def read_whole(text: str, **settings: Any) -> list[Event]:
    reader = live_reader(log(**settings, file="x"), SHAPE)
    assert isinstance(reader, WholeReader)
    return reader.feed(text)


def test_torchtitan() -> None:
    """Colours, timestamps and several ranks; a save and a validation are before the second line.
    500 tokens/s of each of 4 GPUs are 0.5 s for 1000 tokens."""
    info = "[rank0]:[titan] 2026-02-24 19:46:17,508 - root - INFO - "
    found = read(
        f"{info}Training starts at step 1\n"
        f"{info}\x1b[31mstep:  1  \x1b[32mloss:  7.62585  \x1b[33mgrad_norm: 26.6250  "
        "\x1b[34mmemory: 66.91GiB(37.51%)  \x1b[35mtps: 50  \x1b[36mtflops: 3.14  mfu: 13.99%\n"
        f"{info}Saving the checkpoint (or staging if async is enabled).\n"
        f"{info}validate step:  1  loss:  7.1  memory: 66.91GiB(37.51%)  tps: 41,000\n"
        f"{info}step: 10  loss: nan  grad_norm: 1.5  memory: 67.00GiB(37.51%)  tps: 1,000  mfu: 1%",
        format="torchtitan",
    )
    first, validation, second = found
    assert first == Entry(
        step=1,
        loss=7.62585,
        grad_norm=26.625,
        memory_gib=66.91,
        step_s=1000 / (50 * 4),
        paused=True,  # it begins an attempt
    )
    assert validation == Validation(step=1, loss=7.1)
    assert isinstance(second, Entry)
    assert (second.step, second.step_s, second.paused) == (10, 0.25, True)
    assert second.loss is not None
    assert math.isnan(second.loss)
    # A save alone is in the time of the next line, and of no other.
    saving = f"{info}Saving the checkpoint (or staging if async is enabled).\n"
    lines = [f"{info}step: {step}  loss: 5.0  tps: 500  mfu: 1%\n" for step in (10, 20, 30)]
    found = read("".join([lines[0], saving, *lines[1:]]), format="torchtitan")
    assert [event.paused for event in found if isinstance(event, Entry)] == [False, True, False]


def test_nanogpt() -> None:
    """Its first step is number 0, and its evaluation is before the step of its number."""
    assert read(
        "tokens per iteration will be: 1,000\n"
        "step 0: train loss 4.2874, val loss 4.2823\n"
        "iter 0: loss 4.2651, time 11480.56ms, mfu -100.00%\n"
        "iter 10: loss 3.1234, time 123.40ms, mfu 30.12%",
        format="nanogpt",
    ) == [
        Validation(step=0, loss=4.2823),
        Entry(step=1, loss=4.2651, step_s=pytest.approx(11.48056), paused=True),
        Entry(step=11, loss=3.1234, step_s=pytest.approx(0.1234)),
    ]


def test_nanochat() -> None:
    """Its first step is number 0; a step's time leaves evaluations out."""
    line = (
        "step {} | loss: 8.893647 | lrm: 1.00 | dt: {}ms | tok/sec: 529,882 | mfu: 74.1 | "
        "total time: 0.0m"
    )
    found = read(
        "Step 00000 | Validation bpb: 3.3000\n"
        + line.format("00000/21400 (0.00%)", "1,989.44")
        + "\nStep 00001 | Validation bpb: 1.2345\n"
        + line.format("00001/21400 (0.00%)", "989.44"),
        format="nanochat",
    )
    assert [event for event in found if isinstance(event, Validation)] == [
        Validation(step=0, bits_per_byte=3.3), Validation(step=1, bits_per_byte=1.2345)
    ]  # fmt: skip
    entries = [event for event in found if isinstance(event, Entry)]
    assert [(e.step, e.step_s, e.loss) for e in entries] == [
        (1, pytest.approx(1.98944), 8.893647), (2, pytest.approx(0.98944), 8.893647)
    ]  # fmt: skip


def test_lingua() -> None:
    """Records within a step, a line cut off by a kill, and a loss that is not a number."""
    record = {
        "global_step": 10, "acc_step": 0, "speed/wps": 1000.0, "optim/grad_norm": 1.5,
        "optim/lr": 3e-4, "optim/total_tokens": 10_000, "memory/max_reserved_gib": 30.5,
        "loss/out": 5.5, "created_at": "2026-01-01T00:00:00",
    }  # fmt: skip
    lines = [
        json.dumps(record | {"acc_step": 1}),
        json.dumps(record),
        '{"global_step": 20, "acc_',
        json.dumps(record | {"global_step": 30, "loss/out": math.nan}),
    ]
    first, second = read("\n".join(lines), format="lingua")
    assert first == Entry(
        step=10, loss=5.5, rate=3e-4, grad_norm=1.5, tokens=10_000, memory_gib=30.5, step_s=0.25
    )
    assert isinstance(second, Entry)
    assert second.step == 30
    assert math.isnan(second.loss or 0)


LITGPT = "loss,iter,step,epoch,iter_time,remaining_time,tokens,total_tokens,learning_rate"


def test_litgpt() -> None:
    """Two micro-batches of 4 x 125 tokens each are a step; `step` is Fabric's count from 0."""
    text = (
        f"{LITGPT},time,val_loss,val_ppl\n"
        "9.1,2,1,0,0.5,60,250,1000,4e-05,1.5,,\n"
        "8.1,4,3,0,0.5,60,500,2000,5e-05,2.5,,\n"
        ",,3,,,,,,,,7.5,1808.0\n"
        "7.1,6,5,0,0.5,60,750,3000,6e-05,5.5,,\n"
        "6.1,8,7,0,0.5,60,1000,40"
    )
    assert read_whole(text, format="litgpt") == [
        Entry(step=1, loss=9.1, rate=4e-05, tokens=1000, elapsed_s=1.5),
        Entry(step=2, loss=8.1, rate=5e-05, tokens=2000, elapsed_s=2.5),
        Validation(step=2, loss=7.5),
        Entry(step=3, loss=7.1, rate=6e-05, tokens=3000, elapsed_s=5.5, paused=True),
    ]


@pytest.mark.parametrize("wrong", ["nan", "inf", "-inf", "-1", "1e300", "?", ""])
@pytest.mark.parametrize("column", ["iter", "iter_time", "step", "total_tokens"])
def test_what_is_no_amount_in_a_row_of_litgpt(column: str, wrong: str) -> None:
    """No speed is made of it, and no step of a validation; other rows are read."""
    row = {"iter": "1", "iter_time": "0.5", "step": "0", "total_tokens": "1000", "loss": "9.0"}
    last = row | {"iter": "2", "step": "1", "total_tokens": "2000"}
    rows = [{**row, "val_loss": "8.0", column: wrong}, {**last, "val_loss": ""}]
    lines = [",".join(rows[0]), *(",".join(each.values()) for each in rows)]
    validation, *first, entry = read_whole("\n".join(lines) + "\n", format="litgpt")
    assert validation == Validation(step=0, loss=8.0)
    assert [event.step_s for event in first if isinstance(event, Entry)] == {
        "iter": [], "iter_time": [None], "step": [0.5], "total_tokens": []
    }[column]  # fmt: skip
    assert entry == Entry(step=2, loss=9.0, tokens=2000, step_s=0.5, paused=not first)


def test_litgpt_without_times() -> None:
    """`iter_time` is that of a micro-batch, of which a step has two."""
    text = f"{LITGPT}\n9.1,2,1,0,0.5,60,250,1000,4e-05\n"
    assert read_whole(text, format="litgpt") == [
        Entry(step=1, loss=9.1, rate=4e-05, tokens=1000, step_s=1.0)
    ]


def test_trainer_state() -> None:
    history = [
        {"epoch": 0.1, "learning_rate": 1e-4, "loss": 5.2, "grad_norm": 2.0, "step": 10},
        {"eval_loss": 5.0, "eval_runtime": 2.0, "step": 10},
        {"loss": math.nan, "step": 20, "train_runtime": 30.0},
        {"train_loss": 5.1, "train_runtime": 60.0, "step": 20},
    ]
    text = json.dumps({"global_step": 20, "log_history": history})
    found = read_whole(text, format="trainer_state")
    assert found[:2] == [
        Entry(step=10, loss=5.2, rate=1e-4, grad_norm=2.0), Validation(step=10, loss=5.0)
    ]  # fmt: skip
    (last,) = found[2:]
    assert isinstance(last, Entry)
    assert (last.step, last.elapsed_s, last.paused) == (20, 30.0, True)
    assert math.isnan(last.loss or 0)
    assert read_whole(text[:-9], format="trainer_state") == []


def test_of_a_log_that_was_replaced_only_what_is_new_is_told() -> None:
    """After a resume it begins with what it had at the checkpoint, and differs from there."""
    reader = live_reader(log(format="trainer_state", file="x"), SHAPE)
    assert isinstance(reader, WholeReader)

    def told(*entries: tuple[int, float]) -> list[tuple[int, float | None]]:
        history = [{"step": step, "loss": loss} for step, loss in entries]
        found = reader.feed(json.dumps({"log_history": history}))
        return [(event.step, event.loss) for event in found]

    assert told((10, 5.0), (20, 4.0)) == [(10, 5.0), (20, 4.0)]
    assert told((10, 5.0), (20, 4.0), (30, 3.0)) == [(30, 3.0)]
    assert told((10, 5.0)) == []
    assert told((10, 5.0), (20, 4.0), (30, 3.0)) == []
    assert told((10, 5.0), (20, 4.5)) == [(20, 4.5)]
    assert told((10, 5.0), (20, 4.5), (30, 3.5)) == [(30, 3.5)]


def test_regular_expressions() -> None:
    """Groups of several patterns that match the same line belong together."""
    patterns = [
        r"^it (?P<step>\d+) \| (?P<tokens_per_s>[\d,.]+) tok/s",
        r"loss (?P<loss>\S+)( rate (?P<lr>\S+))?",
        r"eval: (?P<validation_loss>\S+)",
    ]
    assert read(
        "it 10 | 2,000 tok/s | loss 3.5\nloss of nothing\neval: 3.25\nit 20 | oops tok/s\n"
        "it 30 | 500 tok/s | loss x\nit 40 | 500 tok/s | loss 3.0 rate 1e-3",
        format="regex",
        patterns=patterns,
    ) == [
        Entry(step=10, loss=3.5, step_s=0.5),
        Validation(step=10, loss=3.25),
        Entry(step=30, step_s=2.0, paused=True),
        Entry(step=40, step_s=2.0, loss=3.0, rate=1e-3),
    ]


def test_a_mapping_of_json() -> None:
    fields = {"step": "i", "loss": "train.loss", "step_ms": "a.b", "tokens": "seen"}
    assert read(
        'epoch 1\n{"i": 1, "train": {"loss": 3}, "a.b": 5, "seen": 7}\n{"i": true}\n[1]\n'
        '{"i": 2, "train": 3}\n{"i": 3, "train": {"loss": "3"}, "seen": 9.5}',
        format="json",
        fields=fields,
    ) == [Entry(step=1, loss=3.0, step_s=0.005, tokens=7), Entry(step=3)]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"format": "regex"}, "patterns"),
        ({"format": "regex", "patterns": "it ("}, "unterminated subpattern"),
        ({"format": "regex", "patterns": r"(?P<stp>\d+)"}, "did you mean 'step'"),
        ({"format": "regex", "patterns": r"(?P<loss>\d+)"}, "nothing is named step"),
        ({"format": "json", "fields": {"loss": "x"}}, "nothing is named step"),
        ({"format": "lingua", "fields": {"step": "x"}}, "only for format json"),
    ],
)
def test_a_description_of_a_log_is_checked(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        validate(LogConfig, settings, "trainers.yaml")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, 0), (7.0, 7), (2.0**40 - 1, 2**40 - 1), (2.0**40, None), (-1.0, None), (7.5, None),
     (math.inf, None), (math.nan, None), (None, None)],
)  # fmt: skip
def test_what_counts_as_a_number_of_steps(value: float | None, expected: int | None) -> None:
    assert count(value) == expected


@pytest.mark.parametrize("name", ["step_s", "step_ms", "tokens_per_s", "tokens_per_s_per_gpu"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_speed_that_is_none_leaves_the_next_that_a_log_has(name: str, value: float) -> None:
    assert make_entry(7, {name: value}, SHAPE).step_s is None
    other = "tokens_per_s" if name == "tokens_per_s_per_gpu" else "tokens_per_s_per_gpu"
    gpus = 1 if other == "tokens_per_s" else 4
    assert make_entry(7, {name: value, other: 500.0}, SHAPE).step_s == 1000 / (500 * gpus)


def test_a_line_may_have_the_step_alone() -> None:
    """Its moment is a speed; values of lines that follow are those of that step."""
    patterns = [r"^step (?P<step>\d+)", r"^loss (?P<loss>\S+)", r"^speed (?P<tokens_per_s>\S+)"]
    assert read("step 10\nstep 20\n", format="regex", patterns=patterns) == [
        Entry(step=10), Entry(step=20)
    ]  # fmt: skip
    lines = "loss 9\nstep 10\nloss 3\nspeed 500\nstep 20\nloss 2.5\n"
    assert read(lines, format="regex", patterns=patterns) == [
        Entry(step=10, loss=3, step_s=2.0), Entry(step=20, loss=2.5)
    ]  # fmt: skip


def test_a_step_alone_is_none_of_training_if_other_lines_have_more() -> None:
    lines = "resuming from step 5\nstep 10 loss 3\nsaving at step 12\nstep 20 loss 2\n"
    patterns = [r"step (?P<step>\d+)", r"loss (?P<loss>\S+)"]
    assert read(lines, format="regex", patterns=patterns) == [
        Entry(step=10, loss=3), Entry(step=20, loss=2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "number"),
    [("1,234.5", 1234.5), ("12,345,678", 12345678.0), ("1_000", 1000.0), ("3.25,", 3.25),
     ("3,25", None), ("0,123", None), ("1,2345", None), (",5", None), ("nan", "nan"),
     ("x", None)],
)  # fmt: skip
def test_commas_separate_thousands(text: str, number: float | str | None) -> None:
    found = to_number(text)
    assert found == number if number != "nan" else math.isnan(found or 0.0)
