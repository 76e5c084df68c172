"""Step times from the logs of other trainers, as they look in the wild."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study.config import Evidence
from study.grid import Cell
from study.measure.entries import LineReader, Shape, Whole
from study.measure.foreign_logs import FORMATS, live_reader, read_steady_steps
from study.trainers import KnownLog, LogConfig, ReplacedLog
from tests.study.measure.log_lines import (
    GOOD,
    LITGPT,
    STATE,
    chat,
    lingua,
    nano,
    titan,
    titan_validation,
    trainer_state,
)
from trainer.output_config import CheckpointConfig, SaveConfig
from trainer.problems import ConfigError


def make_cell(tokens_per_step: int = 1024, gpus: int = 2, save_every: int | None = None) -> Cell:
    """Return as much of a cell as the step times depend on."""
    saves = None
    if save_every is not None:
        saves = CheckpointConfig(dump=SaveConfig(every=save_every))
    run = SimpleNamespace(checkpoint=saves)
    return cast(
        Cell,
        SimpleNamespace(tokens_per_step=tokens_per_step, gpus=gpus, model="tiny", run=run),
    )


def read(tmp_path: Path, kind: str, text: str, cell: Cell | None = None) -> list[float]:
    path = tmp_path / "log"
    path.write_text(text, encoding="utf-8")
    return read_steady_steps(kind, path, cell or make_cell()).times_s


COUNTS = {
    "lingua": 20,  # two intervals of ten steps
    "torchtitan": 19,
    "nanogpt": 2,  # of ten steps each, one is timed
    "nanochat": 2,
    "litgpt": None,  # `iter` counts micro-batches
    "trainer_state": 500,
    "wandb": 10,
}
"""Format -> the steps that the speeds in its log cover, without the first record's."""


def test_every_format_of_a_study_has_a_reader() -> None:
    named = get_args(Evidence.model_fields["format"].annotation)
    assert set(named) == {"csv", "throughput", *FORMATS} == {"csv", "throughput", *GOOD}


def test_every_format_of_a_trainer_is_read_while_it_is_written() -> None:
    assert {name for name, kind in FORMATS.items() if kind.live} == set(get_args(KnownLog))
    replaced = {name for name, kind in FORMATS.items() if isinstance(kind.live, Whole)}
    assert replaced == set(get_args(ReplacedLog))


STEPS = {
    "lingua": [10, 20, 30],
    "torchtitan": [1, 10, 20],
    "nanogpt": [1, 11, 21],  # it calls the first one 0, as nanochat does
    "nanochat": [1, 2, 3],
    "litgpt": [1, 2, 3],
    "trainer_state": [10],
}
"""Format -> the steps after which `GOOD` has a loss."""


@pytest.mark.parametrize("kind", get_args(KnownLog))
def test_the_steps_of_a_log_are_found_while_it_is_written(kind: str) -> None:
    log = LogConfig.model_validate({"format": kind, "file": "log"})
    reader = live_reader(log, Shape(tokens_per_step=1024, gpus=2))
    texts = GOOD[kind].splitlines() if isinstance(reader, LineReader) else [GOOD[kind]]
    assert [event.step for text in texts for event in reader.feed(text)] == STEPS[kind]


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_format(tmp_path: Path, kind: str, encoding: str, end: str) -> None:
    """PowerShell's `>` writes UTF-16 with \\r\\n."""
    path = tmp_path / "log"
    path.write_bytes(GOOD[kind].replace("\n", end).encode(encoding))
    steps = read_steady_steps(kind, path, make_cell())
    assert steps.times_s
    assert steps.times_s == pytest.approx([1.0] * len(steps.times_s))
    assert steps.count == COUNTS[kind]


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("stated", FORMATS)
def test_a_wrong_format_names_the_right_one(tmp_path: Path, stated: str, kind: str) -> None:
    if stated == kind:
        return
    with pytest.raises(ConfigError, match=f"looks like the format '{kind}'") as caught:
        read(tmp_path, stated, GOOD[kind])
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert str(tmp_path / "log") in lines[0]
    assert "line " in lines[1]


def test_a_file_with_a_line_of_its_format_has_no_other(tmp_path: Path) -> None:
    """One line is too few, whatever stands after it."""
    with pytest.raises(ConfigError, match="found no steady step") as caught:
        read(tmp_path, "torchtitan", titan(1, 512) + GOOD["nanogpt"])
    assert "looks like" not in str(caught.value)


def test_validation_of_torchtitan_is_not_training(tmp_path: Path) -> None:
    speeds = {1: 50, 10: 512, 20: 256, 30: 1024}
    text = "".join(titan(*item) + titan_validation(item[0], 41_000) for item in speeds.items())
    assert read(tmp_path, "torchtitan", text) == pytest.approx([1.0, 2.0, 0.5])


def test_a_save_of_torchtitan_is_left_out(tmp_path: Path) -> None:
    staging = "[titan] 2026-02-24 19:46:18,508 - root - INFO - Staging a checkpoint.\n"
    saving = "[titan] 2026-02-24 19:46:18,508 - root - INFO - Saving the checkpoint.\n"
    text = titan(1, 50) + titan(10, 512) + staging + titan(20, 64) + titan(30, 512)
    assert read(tmp_path, "torchtitan", text) == pytest.approx([1.0, 1.0])
    text = titan(1, 50) + titan(10, 512) + saving + titan(20, 64) + titan(30, 512)
    assert read(tmp_path, "torchtitan", text) == pytest.approx([1.0, 1.0])
    # Of two ranks, one says so before the other has printed the step before.
    lines = [titan(1, 50), titan(10, 512), titan(20, 64), titan(30, 512)]
    both = [line for line in lines for _ in range(2)]
    text = "".join([*both[:3], saving, *both[3:]])
    assert read(tmp_path, "torchtitan", text) == pytest.approx([1.0, 1.0])


def test_every_rank_prints(tmp_path: Path) -> None:
    """Eight ranks without prefixes; one is late by a line of the next interval."""
    speeds = {1: 50, 10: 512, 20: 256, 30: 1024}
    lines = [titan(step, tps) for step, tps in speeds.items() for _ in range(8)]
    lines[15], lines[17] = lines[17], lines[15]  # two of step 20, then the last of step 10
    assert lines[15] != lines[17]
    assert read(tmp_path, "torchtitan", "".join(lines)) == pytest.approx([1.0, 2.0, 0.5])


RANKS: Sequence[Callable[[int], str]] = (
    lambda rank: f"[rank{rank}]:",
    lambda rank: f"[default{rank}]:",
    lambda rank: f"[1,{rank}]<stdout>:",
    lambda rank: f"{rank}: ",
    lambda rank: f"2025-01-02 10:00:00 [trainer{rank}]:",
)


@pytest.mark.parametrize("label", RANKS)
@pytest.mark.parametrize("kind", ["torchtitan", "nanogpt", "nanochat"])
def test_the_lowest_rank_counts(tmp_path: Path, kind: str, label: Callable[[int], str]) -> None:
    """Rank 3 is far ahead of rank 1 in the file: it must not look like a second attempt."""
    line: Callable[[int, float], str] = {
        "torchtitan": lambda step, s: titan(step, round(512 / s)),
        "nanogpt": lambda step, s: nano(step, 1e3 * s),
        "nanochat": lambda step, s: chat(step, 1e3 * s),
    }[kind]
    first = [label(1) + line(step, 1.0) for step in (10, 20, 30, 40)]
    other = [label(3) + line(step, 4.0) for step in (10, 20, 30, 40)]
    text = "".join([*first[:2], *other, *first[2:]])
    assert read(tmp_path, kind, text) == pytest.approx([1.0] * 3)


def test_a_launcher_that_labels_no_rank_goes_on_with_a_log(tmp_path: Path) -> None:
    """Two ranks with labels, up to step 30; the second attempt, without, from step 20 on."""
    labelled = [f"[rank{rank}]:{titan(step, 512)}" for step in (10, 20, 30) for rank in (0, 1)]
    text = "".join([*labelled, titan(20, 8), titan(30, 256), titan(40, 512)])
    assert read(tmp_path, "torchtitan", text) == pytest.approx([2.0, 1.0])


@pytest.mark.parametrize(
    "before", ["", "2025-01-02 10:00:00 ", "[default0]:", "  \x1b[36m", "INFO "]
)
@pytest.mark.parametrize("after", ["", "\x1b[0m"])
def test_nanogpt_with_prefixes(tmp_path: Path, before: str, after: str) -> None:
    lines = [
        "step 0: train loss 10.9, val loss 10.9\n", nano(0, 9000), nano(10, 100),
        "step 20: train loss 8.0, val loss 8.1\n", nano(20, 4000), nano(30, 300),
    ]  # fmt: skip
    text = "".join(before + line.replace("\n", after + "\n") for line in lines)
    assert read(tmp_path, "nanogpt", text) == pytest.approx([0.1, 0.3])


def test_a_resumed_log_says_so_or_its_steps_go_back(tmp_path: Path) -> None:
    """Steps 30 and 40 are done again; then a start beyond the last step that was logged."""
    again = [titan(30, 8), titan(40, 256), titan(50, 512)]
    text = "".join([titan(1, 8), *(titan(step, 1024) for step in (10, 20, 30, 40)), *again])
    assert read(tmp_path, "torchtitan", text) == pytest.approx([0.5, 0.5, 2.0, 1.0])
    start = "[titan] 2026-02-24 19:46:17,508 - root - INFO - Training starts at step 56\n"
    text += start + titan(60, 8) + titan(70, 512)
    assert read(tmp_path, "torchtitan", text) == pytest.approx([0.5, 0.5, 2.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("nanogpt", "tokens per iteration will be: 1,024\n"),
        ("nanochat", "Tokens / micro-batch / rank: 8 x 64 = 512\n"),
        (
            "torchtitan",
            "[titan] 2026-02-24 19:46:17,508 - root - INFO - Training starts at step 4\n",
        ),
    ],
)
def test_an_attempt_may_go_on_where_the_log_ends(tmp_path: Path, kind: str, start: str) -> None:
    """What it prints before its first step, whose time includes the start-up, says so."""
    line: Callable[[int, float], str] = {
        "torchtitan": lambda step, s: titan(step, round(512 / s)),
        "nanogpt": lambda step, s: nano(step, 1e3 * s),
        "nanochat": lambda step, s: chat(step, 1e3 * s),
    }[kind]
    times = {1: 9.0, 2: 1.0, 3: 1.0, 4: 8.0, 5: 2.0}
    lines = [line(step, time_s) for step, time_s in times.items()]
    text = "".join([start, *lines[:3], start, *lines[3:]])
    assert read(tmp_path, kind, text) == pytest.approx([1.0, 1.0, 2.0])


def test_bytes_that_are_no_text_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a name: \xff\xfe\n" + GOOD["nanogpt"].encode() + b"\xe9\n")
    assert read_steady_steps("nanogpt", path, make_cell()).times_s == [1.0, 1.0]


def test_older_and_newer_lines_of_nanochat(tmp_path: Path) -> None:
    text = chat(4, 9000) + chat(5, 1000, mfu="mfu") + "Step 00006 | Validation bpb: 1.1\n"
    assert read(tmp_path, "nanochat", text + chat(6, 500)) == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize("total", [True, False])
def test_accumulation_of_lingua_with_a_record_for_each_micro_batch(
    tmp_path: Path, total: bool
) -> None:
    """Four micro-batches of 128 tokens on each GPU take 0.1, 0.1, 0.1 and 0.3 s: 0.6 s a step."""
    text = ""
    for batch in range(1, 13):
        step, micro = divmod(batch, 4)
        seconds = 0.3 if micro == 0 else 0.1
        more = {"optim/total_tokens": 256 * batch} if total else {}
        text += lingua(step, 128 / seconds, acc_step=micro, **more)
    assert read(tmp_path, "lingua", text) == pytest.approx([0.6, 0.6])


def test_accumulation_of_lingua_with_unequal_parts(tmp_path: Path) -> None:
    """Every ten steps, records at micro-batches 0 and 2: parts of 2 and of 38 micro-batches."""
    text = lingua(10, 500, acc_step=0, **{"optim/total_tokens": 10 * 1024})
    for step in (10, 20):
        tokens = step * 1024
        text += lingua(step, 256 / 0.2, acc_step=2, **{"optim/total_tokens": tokens + 512})
        text += lingua(
            step + 10, 38 * 128 / 5.8, acc_step=0, **{"optim/total_tokens": tokens + 10240}
        )
    assert read(tmp_path, "lingua", text) == pytest.approx([0.6, 0.6])


def test_a_log_of_another_batch_is_rejected(tmp_path: Path) -> None:
    """524,288 tokens a step, as nanochat has them by default."""
    sample = "".join(chat(step, 989.44, tokens=524_288) for step in range(4))
    assert read(tmp_path, "nanochat", sample, make_cell(524_288, 8)) == pytest.approx([0.98944] * 3)
    with pytest.raises(ConfigError, match=r"about 524,28\d tokens per step; expected 1,024"):
        read(tmp_path, "nanochat", sample)
    # The last attempt's batch counts.
    corrected = "".join(chat(step, 1000) for step in range(4))
    assert read(tmp_path, "nanochat", sample + corrected) == pytest.approx([1.0] * 3)
    with pytest.raises(ConfigError, match="about 2,048 tokens per step"):
        more = [lingua(step, 1, **{"optim/total_tokens": 2048 * step}) for step in (1, 2)]
        read(tmp_path, "lingua", "".join(more))
    with pytest.raises(ConfigError, match="about 512 tokens per step"):
        same = [lingua(step, 1, **{"optim/total_tokens": 1024}) for step in (1, 2)]
        read(tmp_path, "lingua", "".join(same))


@pytest.mark.parametrize(("share", "fits"), [(0.995, True), (1.005, True), (0.98, False)])
def test_tokens_that_follow_from_rounded_speeds_may_differ_by_a_percent(
    tmp_path: Path, share: float, fits: bool
) -> None:
    totals = ({"optim/total_tokens": round(100_000 * share * step)} for step in (10, 20))
    text = "".join(lingua(10 * n, 50_000, **more) for n, more in enumerate(totals, 1))
    cell = make_cell(tokens_per_step=100_000)
    if fits:
        assert read(tmp_path, "lingua", text, cell) == pytest.approx([1.0])
    else:
        with pytest.raises(ConfigError, match="about 98,000 tokens per step; expected 100,000"):
            read(tmp_path, "lingua", text, cell)


def test_litgpt_times_with_validation(tmp_path: Path) -> None:
    """Two micro-batches a step: 1,024 tokens in 1 s; the interval after validation takes 5 s more.

    CSVLogger replaces `step` by the number of the micro-batch before.
    """
    text = LITGPT + ",time,val_loss,val_ppl\n"
    for number, time_s, validated in ((2, 9, 0), (4, 10, 1), (6, 16, 0), (8, 17, 0)):
        text += (
            f"0,{number},0.4,4e-05,9.1,100,{number - 1},{256 * number},{512 * number},{time_s},,\n"
        )
        text += f",,,,,,{number - 1},,,,9.2,9000\n" * validated
    assert read(tmp_path, "litgpt", text) == pytest.approx([1.0, 1.0])


def test_a_validation_of_litgpt_is_not_in_the_time_of_a_micro_batch(tmp_path: Path) -> None:
    text = LITGPT + ",val_loss\n"
    for number in (1, 2, 3):
        text += f"0,{number},1,4e-05,9.1,100,{number},{512 * number},{1024 * number},\n"
        text += f",,,,,,{number},,,9.2\n"
    assert read(tmp_path, "litgpt", text, make_cell(save_every=1)) == pytest.approx([1.0, 1.0])


def test_the_mean_of_a_trainer_state(tmp_path: Path) -> None:
    """120.3 s for 500 steps; with evaluations; resumed at step 300; without a summary."""
    loss = {"loss": 5.2, "step": 10}
    evaluation = {"eval_loss": 5.0, "eval_runtime": 20.3}
    assert read(tmp_path, "trainer_state", trainer_state(loss, STATE)) == [pytest.approx(0.2406)]
    several = trainer_state(loss, {**loss, "step": 500}, STATE)
    assert read(tmp_path, "trainer_state", several) == [pytest.approx(0.2406)]
    timed = trainer_state({**loss, "train_runtime": 9.0}, STATE)  # the start of one interval
    assert read(tmp_path, "trainer_state", timed) == [pytest.approx(0.2406)]
    entries = [{**evaluation, "step": 250}, {**evaluation, "step": 500}, STATE]
    text = trainer_state(*entries[:1], STATE, {**evaluation, "step": 500})
    assert read(tmp_path, "trainer_state", text) == [pytest.approx(0.2)]
    assert read(tmp_path, "trainer_state", trainer_state(*entries)) == [pytest.approx(79.7 / 500)]
    resumed = {**STATE, "train_steps_per_second": round(200 / 120.3, 3)}
    text = trainer_state(*entries[:2], resumed)
    assert read(tmp_path, "trainer_state", text) == [pytest.approx(0.5)]
    # 0.00346 steps/s, rounded: no sign that only 390 of 450 steps were done.
    slow = {**STATE, "step": 450, "train_runtime": 130_000.0, "train_steps_per_second": 0.003}
    found = read(tmp_path, "trainer_state", trainer_state(slow))
    assert found == [pytest.approx(130_000 / 450)]
    with pytest.raises(ConfigError, match="no 'train_runtime' in log_history"):
        read(tmp_path, "trainer_state", trainer_state(loss))


def test_intervals_of_a_trainer_state(tmp_path: Path) -> None:
    """Entries have times with `include_num_input_tokens_seen`; step 30 follows an evaluation."""
    times = {10: 9.0, 20: 19.0, 30: 89.0, 40: 109.0}
    entries: list[dict[str, Any]] = [
        {"loss": 5.0, "step": step, "train_runtime": time_s} for step, time_s in times.items()
    ]
    entries.insert(2, {"eval_loss": 5.0, "eval_runtime": 60.0, "step": 20})
    resumed = [{"loss": 4.0, "step": 50, "train_runtime": 11.0},
               {"loss": 4.0, "step": 60, "train_runtime": 41.0}]  # fmt: skip
    text = trainer_state(*entries, STATE, *resumed)
    assert read(tmp_path, "trainer_state", text) == pytest.approx([1.0, 2.0, 3.0])
    # The last step twice; and a resume whose first entry has the time of the one before.
    again = [{**entries[-1], "train_runtime": 111.0}]
    resumed = [{**resumed[0], "train_runtime": 111.0}, {**resumed[1], "train_runtime": 141.0}]
    text = trainer_state(*entries, *again, *resumed)
    assert read(tmp_path, "trainer_state", text) == pytest.approx([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("header", "speeds", "expected", "count"),
    [
        ("Step,a - speed/wps", (1, 512), 1.0, 10),
        ("_step,speed/tokens_per_s", (1, 512), 2.0, 10),
        ("Step,my - run - throughput(tps)", (1, 128), 4.0, 10),
        ("Step,d20 - train/tok_per_sec", (1, 1024), 1.0, 1),
        ("Step,d20 - train/dt", (9, 0.25), 0.25, 1),
        ("global_step,time/step_s", (9, 0.5), 0.5, 10),
    ],
)
def test_metrics_of_wandb(
    tmp_path: Path, header: str, speeds: tuple[float, float], expected: float, count: int
) -> None:
    """Of nanochat's, one step is timed; others are the mean since the record before."""
    text = header + "".join(f"\n{10 * i},{value}" for i, value in enumerate(speeds)) + "\n15,\n"
    path = tmp_path / "log"
    path.write_text(text)
    steps = read_steady_steps("wandb", path, make_cell())
    assert (steps.times_s, steps.count) == ([pytest.approx(expected)], count)


def test_intervals_with_unmarked_saves_are_left_out(tmp_path: Path) -> None:
    text = "Step,a - speed/wps\n10,1\n20,512\n30,64\n40,512\n"
    cell = make_cell(save_every=20)
    assert read(tmp_path, "wandb", text, cell) == pytest.approx([1.0, 1.0])
    # After steps 15, 30 and 45, of which only 30 has a record.
    text = "Step,a - speed/wps\n10,1\n20,64\n30,512\n40,64\n50,64\n60,256\n"
    cell = make_cell(save_every=15)
    assert read(tmp_path, "wandb", text, cell) == pytest.approx([1.0, 2.0])
    # Of single steps with a record each, that after the save.
    text = "Step,a - train/dt\n14,9\n15,1\n16,8\n25,1\n30,1\n31,8\n32,2\n"
    assert read(tmp_path, "wandb", text, cell) == pytest.approx([1.0, 1.0, 1.0, 2.0])
    # Nothing is saved before the first step.
    cell = make_cell(save_every=20)
    text = "Step,a - speed/wps\n0,1\n10,512\n20,256\n"
    assert read(tmp_path, "wandb", text, cell) == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("wandb", "Step,a - speed/wps,b - speed/wps\n1,2,3\n", "several runs, 'a - speed/wps'"),
        ("wandb", "Step,a - loss/out\n1,2\n", "no column with a speed"),
        ("wandb", "Relative Time,a - speed/wps\n1,2\n", "no column with the step"),
        ("wandb", "Step,a - speed/wps\n1,2\n2,NaN\n", "line 3: a - speed/wps: 'NaN'"),
        ("litgpt", LITGPT + "\n0,1,x,4e-05,9.1,1,1,512,1024\n", "line 2: iter_time: 'x'"),
        ("litgpt", "iter,total_tokens,time\n1,9,5\n2,18,4\n", "line 3: time: 4 after 5"),
        (
            "litgpt",
            "iter,total_tokens,time\n1,9000,4\n2,9000,5\n",
            "line 3: total_tokens: 9,000 after 9,000; expected more",
        ),
        ("lingua", lingua(1, 5) + lingua(2, float("nan")), "line 2: speed/wps: found 'nan'"),
        ("lingua", lingua(1, 5) + lingua(2, 0), "line 2: step 2 has the speed 0"),
        ("lingua", '{"global_step": 1.5, "speed/wps": 5}\n', "line 1: global_step: found 1.5"),
        ("lingua", '{"global_step": 1e999, "speed/wps": 5}\n', "line 1: global_step: found 'inf'"),
        ("lingua", '{"global_step": true, "speed/wps": 5}\n', "line 1: global_step: found 'True'"),
        ("lingua", "[1, 2]\n", r"line 1: found '\[1, 2\]'"),
        ("torchtitan", titan(1, 5) + titan(10, 0), "line 2: step 10 has the speed 0"),
        ("torchtitan", titan(1, 5).replace("tps: 5", "tps: 5.5.5"), "line 1: '5.5.5'"),
        ("trainer_state", "{", "not valid JSON"),
        ("trainer_state", "[" * 100_000, "not valid JSON"),
        ("trainer_state", '{"log_history": [1]}', "expected a list of mappings"),
        ("trainer_state", trainer_state({**STATE, "step": ""}), r"log_history\[0\].step: found"),
        ("trainer_state", trainer_state({**STATE, "step": 0}), "expected more"),
    ],
)  # fmt: skip
def test_a_malformed_log_is_rejected(tmp_path: Path, kind: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, kind, text)
    assert str(tmp_path / "log") in str(caught.value)


def test_a_line_that_is_read_in_pieces_counts_once(tmp_path: Path) -> None:
    text = titan(1, 5) + "x" * 200_000 + "\n" + titan(10, 0)
    with pytest.raises(ConfigError, match="line 3: step 10 has the speed 0"):
        read(tmp_path, "torchtitan", text)


@pytest.mark.parametrize("name", [".", "none", "nul\0"])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_cannot_be_read(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_steady_steps(kind, tmp_path / name, make_cell())


PIECES = [
    *(
        "",
        "\n",
        "\r",
        "\0",
        "\x1b[",
        "\ufeff",
        '"',
        ",",
        ";",
        "nan",
        "1e999",
        "9" * 5000,
        "-1",
        "[rank1]:",
    ),
    *("{", "}", "[", "null", "step: 1 ", "tps: ", "iter 1: loss 1, time ", "\ud800"),
]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(list(GOOD)),
    source=st.sampled_from(list(GOOD)),
    changes=st.lists(
        st.tuples(
            st.floats(0, 1), st.integers(0, 40),
            st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), st.integers(1, 300),
        ),
        max_size=4,
    ),
    cut=st.floats(0, 1),
)  # fmt: skip
def test_a_damaged_log_gives_times_or_an_error_of_ours(
    tmp_path: Path, kind: str, source: str, changes: list[Any], cut: float
) -> None:
    text = GOOD[kind if len(changes) < 3 else source]
    for where, length, piece, times in changes:
        at = int(where * len(text))
        text = text[:at] + piece * times + text[at + length :]
    data = text.encode("utf-8", errors="surrogatepass")
    path = tmp_path / "log"
    path.write_bytes(data[: int(cut * len(data))] if cut > 0.5 else data)
    try:
        steps = read_steady_steps(kind, path, make_cell())
    except ConfigError as error:
        assert str(path) in str(error)
    else:
        assert steps.times_s
        assert all(0 < step_s < float("inf") for step_s in steps.times_s)
        assert steps.count is None or steps.count > 0
