"""Speeds measured elsewhere: tables, earlier studies, and the logs of other trainers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from study.estimate.basis import EXTRAPOLATED, INTERPOLATED
from study.estimate.estimate import Estimate, estimate_table
from study.estimate.time_table import to_markdown
from study.grid import Grid
from study.measure.evidence import known_measurements, read_evidence
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import write_table
from study.workload import workload
from tests.study.conftest import MakeGrid, write_run
from trainer.problems import ConfigError

ROOT = Path(__file__).parents[3]

# 1,024 tokens a step on 2 GPUs: 8 sequences of 64 tokens on each.
LOG = {"cluster": "here", "model": "tiny", "gpus": 2}


def with_evidence(make_grid: MakeGrid, path: Path, **entry: Any) -> Grid:
    return make_grid({"evidence": [{"file": str(path), **entry}]})


def steps_of(make_grid: MakeGrid, path: Path, **entry: Any) -> tuple[float, float, float]:
    (found,) = read_evidence(with_evidence(make_grid, path, **{**LOG, **entry}).study)
    return found.step_s


def test_a_table_of_speeds_by_hand(make_grid: MakeGrid, tmp_path: Path) -> None:
    path = tmp_path / "speeds.csv"
    path.write_text(
        "# a comment\n"
        "cluster,model,gpus,tokens_per_s_per_gpu,tokens_per_s,step_ms,seq_len,by,startup_s\n"
        "here,tiny,2,512,,,,us,7\n"
        "here,tiny,2,,1024,,128,,\n"
        "here,wide,1,,,250,,,\n"
    )
    first, second, third = read_evidence(with_evidence(make_grid, path, by="a friend").study)
    assert first.step_s == (1.0, 1.0, 1.0)
    assert (first.source, first.startup_s) == ("us", 7)
    assert second.cell.tokens_per_step == 2048
    assert second.step_s == (2.0, 2.0, 2.0)
    assert second.source == "a friend"
    assert third.step_s == (0.25, 0.25, 0.25)
    assert third.cell.model == "wide"
    # settings of all rows, which a row's own replace
    entry = with_evidence(make_grid, path, run={"data": {"seq_len": 256, "batch_size": 2}})
    assert [item.cell.tokens_per_step for item in read_evidence(entry.study)] == [1024, 512, 512]


def test_a_row_states_its_shape_its_length_and_its_memory(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    """A row's own settings replace those of all rows."""
    path = tmp_path / "speeds.csv"
    path.write_text(
        "cluster,model,gpus,variant,step_ms,batch_size_per_gpu,seq_len,grad_acc_steps,steps,wall_s,"
        "startup_s,peak_memory_gib\n"
        "here,tiny,2,hot,250,3,32,5,70,60,7,12.5\n"
    )
    run = {"data": {"batch_size": 2, "seq_len": 16}, "grad_acc_steps": 2, "steps": 90}
    variants = {"hot": {"optim": {"lr": 0.5}}}
    grid = make_grid({"variants": variants, "evidence": [{"file": str(path), "run": run}]})
    (found,) = read_evidence(grid.study)
    shape = found.cell.run
    assert (shape.data.batch_size, shape.data.seq_len, shape.grad_acc_steps) == (3, 32, 5)
    assert (shape.steps, shape.optim.lr) == (70, 0.5)
    assert (found.wall_s, found.startup_s, found.peak_memory_gib) == (60.0, 7.0, 12.5)
    assert (found.completed, found.uninterrupted, found.steps_only) == (True, True, False)


@pytest.mark.parametrize(
    ("columns", "values", "steps"),
    [("", "", None), (",wall_s", ",17", 40), (",steps", ",50", 50), (",startup_s", ",7", None)],
)
def test_a_row_is_of_the_steps_of_a_whole_run_if_it_states_its_time_or_its_length(
    make_grid: MakeGrid, tmp_path: Path, columns: str, values: str, steps: int | None
) -> None:
    """The study's runs have 40 steps."""
    path = tmp_path / "speeds.csv"
    path.write_text(f"cluster,model,gpus,step_ms{columns}\nhere,tiny,2,250{values}\n")
    (found,) = read_evidence(with_evidence(make_grid, path).study)
    assert found.steady_steps == steps


def test_a_row_states_its_layout_and_its_dtype(make_grid: MakeGrid, tmp_path: Path) -> None:
    """Hybrid sharding, tensor parallelism, and settings that the study's own runs do not have."""
    path = tmp_path / "speeds.csv"
    path.write_text(
        "cluster,model,gpus,step_ms,activation_checkpointing,fsdp_type,dp_shard,tp_size,"
        "model_dtype,compile\n"
        "fast,wide,8,10,full,full_shard,4,,bf16,TRUE\n"
        "fast,wide,8,20,none,no_shard,,2,fp32,false\n"
        "fast,wide,8,30,,,,,,\n"
    )
    changes = {"run": {"distributed": {"selective_activation_checkpointing": True}},
               "evidence": [{"file": str(path)}]}  # fmt: skip
    hybrid, split, plain = (workload(item.cell) for item in read_evidence(make_grid(changes).study))
    assert (hybrid.shard, hybrid.recompute, hybrid.compiled) == (4, "full", True)
    assert (split.tensor_parallel, split.value_bytes, split.recompute) == (2, 4, "none")
    assert (plain.shard, plain.tensor_parallel, plain.recompute) == (1, 1, "selective")
    assert hybrid.unseen == split.unseen == plain.unseen


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("activation_checkpointing", "everything", "'none', 'selective' or 'full'"),
        ("fsdp_type", "3", "'no_shard' or 'full_shard'"),
        ("tp_size", "2.5", "expected a whole number above 0"),
        ("dp_shard", "4", "needs fsdp_type: full_shard"),
        ("compile", "yes", "found 'yes'; expected true, false or 'auto'"),
        ("model_dtype", "fp8", "'auto', 'bf16' or 'fp32'"),
    ],
)
def test_a_setting_that_does_not_exist_is_named_with_its_line(
    make_grid: MakeGrid, tmp_path: Path, column: str, value: str, expected: str
) -> None:
    path = tmp_path / "speeds.csv"
    path.write_text(f"cluster,model,gpus,step_ms,{column}\nhere,tiny,2,10,{value}\n")
    with pytest.raises(ConfigError) as error:
        read_evidence(with_evidence(make_grid, path).study)
    assert f"{path}: 1 problem\n  line 2: " in str(error.value)
    assert column in str(error.value)
    assert expected in str(error.value)


def test_a_cell_between_the_batches_and_lengths_of_rows_is_interpolated(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    path = tmp_path / "speeds.csv"
    path.write_text(
        "cluster,model,gpus,step_ms,batch_size_per_gpu,seq_len\n"
        "here,tiny,1,10,4,32\n"
        "here,wide,2,40,16,128\n"
        "here,tiny,2,40,16,128\n"
    )
    grid = with_evidence(make_grid, path)
    bases = {row.basis for row in estimate_table(grid, known_measurements(grid))}
    assert bases == {INTERPOLATED}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "823,207,936 parameters on 8 GPUs, measured 27,535,872 on 8 or more"),
        ({"distributed": {"fsdp_type": "full_shard"}}, "sharding full was not measured"),
        ({"grad_acc_steps": 64}, "64 micro-batches a step, measured 1"),
    ],
)
def test_what_no_row_shows_is_not_between_the_rows(
    make_grid: MakeGrid, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    """Each size and each GPU count ran, but not the large model on 8 GPUs, and none of these
    settings."""
    path = tmp_path / "speeds.csv"
    path.write_text(
        "cluster,model,gpus,step_ms\nfast,small,1,11\nfast,small,8,13\nfast,large,1,172\n"
    )
    ours = {"data": {"batch_size": 8, "seq_len": 2048}, "distributed": {"fsdp_type": "no_shard"}}
    grid = make_grid(
        {
            "models": {
                "small": {"dim": 512, "n_layers": 8, "n_heads": 8},
                "large": {"dim": 2048, "n_layers": 16, "n_heads": 16},
            },
            "run": {**ours, "grad_acc_steps": 1},
            "variants": {"other": changes},
            "grid": [
                {"cluster": "fast", "model": ["small", "large"], "gpus": 8, "variant": "other"}
            ],
            "evidence": [{"file": str(path)}],
        }
    )
    small, large = estimate_table(grid, known_measurements(grid))
    assert (large.basis, why in large.method) == (EXTRAPOLATED, True)
    assert small.basis == (EXTRAPOLATED if changes else "Verified")


def test_a_size_between_two_on_as_many_gpus_is_interpolated(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    """The middle size never ran on 2 GPUs; a smaller and a larger one did."""
    path = tmp_path / "speeds.csv"
    path.write_text("cluster,model,gpus,step_ms\nhere,tiny,1,10\nhere,tiny,2,12\nhere,wide,2,40\n")
    middle = {"dim": 96, "n_layers": 2, "n_heads": 2}
    grid = make_grid(
        {
            "models": {"middle": middle},
            "grid": [{"cluster": "here", "model": "middle", "gpus": [1, 2]}],
            "evidence": [{"file": str(path)}],
        }
    )
    rows = estimate_table(grid, known_measurements(grid))
    assert [row.basis for row in rows] == [INTERPOLATED] * 2


@pytest.mark.parametrize(
    ("text", "tokens_per_s"),
    [
        ("cluster,model,gpus,tokens_per_s\nhere,tiny,1,600000\n\nhere,wide,1,600000\n", 600_000),
        ("\ufeffcluster,model,gpus,tokens_per_s\nhere,tiny,1,600000\n", 600_000),
        ("cluster;model;gpus;tokens_per_s\nhere;tiny;1;600000,5\n", 600_000.5),
        ('cluster,model,gpus,tokens_per_s\nhere,tiny,1,"600,000"\n', 600_000),
        ('cluster,model,gpus,tokens_per_s,by\nhere,tiny,1.0,6e5,"two\nlines"\n', 600_000),
    ],
)
def test_a_table_as_people_save_it(
    make_grid: MakeGrid, tmp_path: Path, text: str, tokens_per_s: float
) -> None:
    path = tmp_path / "speeds.csv"
    path.write_text(text, encoding="utf-8")
    found = read_evidence(with_evidence(make_grid, path).study)
    assert len(found) == text.count("here")
    for item in found:
        assert item.step_s[1] == pytest.approx(512 / tokens_per_s)
        assert item.source == ("two lines" if "two" in text else "speeds")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "no columns; expected a header line with cluster, model, gpus and a speed"),
        ("# only a comment\n", "no columns; expected a header line"),
        ("cluster,model,gpus,step_ms\nhere,tiny,1.5,5\n", "line 2: gpus: '1.5'; expected a whole"),
        ("cluster,model,gpus,step_ms\nhere,tiny,1,600,000\n", "line 2: cell 5, '000', has no col"),
        ("cluster,model,gpus,step_ms\n\nhere,tiny,1,nan\n", "line 3: step_ms: 'nan'; expected"),
        ("cluster;model;gpus;step_ms\nhere;tiny;1;600,000\n", "'600,000' may mean 600000 or 600;"),
        ("cluster,model,gpus,step_ms\na b,tiny,1,5\n", "line 2: cluster"),
        ("cluster,model,gpus,step_ms\nhere,tiny,1,5e-324\n", "makes a step of 0 s"),
        ("cluster,model,gpus,tokens_per_s\nhere,tiny,1,1e-320\n", "makes a step of inf s"),
        ("cluster,model,gpus,step_ms,seq_len\nhere,tiny,1,5,64.5\n", "seq_len: '64.5'"),
        ("cluster,model,gpus,speed\n", "unknown column 'speed'"),
        ("cluster,model,gpus,step_ms\nhere,tiny,1,fast\n", "line 2: step_ms: 'fast'"),
        ("cluster,model,gpus,step_ms\nhere,tiny,1,\n", "line 2: speed: found none"),
        (
            "cluster,model,gpus,step_ms,tokens_per_s\nhere,tiny,1,5,9\n",
            "line 2: speed: found tokens_per_s and step_ms; expected one of",
        ),
        ("# x\ncluster,model,gpus,step_ms\nhere,tinny,1,5\n", "unknown model 'tinny'"),
        ("cluster,model,gpus,step_ms\nthere,tiny,1,5\n", "unknown cluster 'there'"),
        ("cluster,model,gpus,step_ms\nhere,tiny,,5\n", "line 2: gpus: empty"),
        ("cluster,model,gpus,step_ms,seq_len\nhere,tiny,1,5,-3\n", "seq_len: '-3'"),
    ],
)
def test_a_wrong_table_is_rejected(
    make_grid: MakeGrid, tmp_path: Path, lines: str, message: str
) -> None:
    path = tmp_path / "speeds.csv"
    path.write_text(lines)
    with pytest.raises(ConfigError) as caught:
        read_evidence(with_evidence(make_grid, path).study)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_fifo_is_no_evidence(make_grid: MakeGrid, tmp_path: Path) -> None:
    """Reading it, by any command, waited forever."""
    os.mkfifo(tmp_path / "speeds.csv")
    for entry in ({}, {"format": "lingua", **LOG}):
        with pytest.raises(ConfigError, match=r"speeds\.csv: .*\n.*found a FIFO; expected a file"):
            read_evidence(with_evidence(make_grid, tmp_path / "speeds.csv", **entry).study)


def test_all_problems_of_a_table_are_reported(make_grid: MakeGrid, tmp_path: Path) -> None:
    path = tmp_path / "speeds.csv"
    path.write_text("cluster,model,gpus,step_ms\nhere,tiny,x,5\nhere,tiny,1,5\nhere,tiny,1,y\n")
    with pytest.raises(ConfigError, match=r"(?s)line 2: gpus: 'x'.*line 4: step_ms: 'y'"):
        read_evidence(with_evidence(make_grid, path).study)


def lingua_line(step: int, step_s: float) -> str:
    return json.dumps({"global_step": step, "speed/wps": 512 / step_s, "loss/out": 3.0}) + "\n"


def test_lingua_metrics(make_grid: MakeGrid, tmp_path: Path) -> None:
    """Steps 30 and 40 are repeated after a requeue; step 30 includes the save at 20."""
    path = tmp_path / "metrics.jsonl"
    first = [(10, 9.0), (20, 1.0), (30, 5.0), (40, 1.0)]
    again = [(30, 8.0), (40, 2.0), (50, 3.0)]
    torn = lingua_line(60, 1.0)[:20]
    path.write_text("".join(lingua_line(*item) for item in first + again) + torn)
    saves = {"checkpoint": {"dump": {"every": 20}}}
    # Left: step 20 of the first attempt, 40 of the second; 50 follows the save at 40.
    low, middle, high = steps_of(make_grid, path, format="lingua", run=saves)
    assert (low, middle, high) == pytest.approx((1.1, 1.5, 1.9))


def test_a_broken_line_of_lingua_is_reported(make_grid: MakeGrid, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lingua_line(10, 1.0) + '{"global_step": 20}\n')
    with pytest.raises(ConfigError, match=r"line 2: .*speed/wps"):
        steps_of(make_grid, path, format="lingua")


def test_torchtitan_log(make_grid: MakeGrid, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    line = (
        "[rank0]:[titan] 2026-01-01 10:00:00,000 - root - INFO - \x1b[31mstep: {:2}  "
        "\x1b[32mloss: 10.85  \x1b[38;2;180;60;0mgrad_norm: 1.2  \x1b[33mmemory:  1.94GiB(2.04%)  "
        "\x1b[34mtps: {:,}  \x1b[36mtflops: 1.4  \x1b[35mmfu: 0.16%\x1b[39m\n"
    )
    speeds = [(1, 50), (10, 512), (20, 256), (30, 1024)]
    path.write_text("Training starts\n" + "".join(line.format(*item) for item in speeds))
    low, middle, high = steps_of(make_grid, path, format="torchtitan")
    # 1,024 tokens at 2 x 512, 2 x 256 and 2 x 1,024 tokens/s: 1, 2 and 0.5 s.
    assert (low, middle, high) == pytest.approx((0.6, 1.0, 1.8))


def test_a_log_tells_the_mean_of_its_intervals_and_how_many_steps_they_have(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    """Of 1, 2 and 3 s, up to steps 10, 20 and 40: their standard error is 1 / sqrt(3) s."""
    path = tmp_path / "log.txt"
    speeds = [(1, 50.0), (10, 512.0), (20, 256.0), (40, 512 / 3)]
    path.write_text("".join(f"step: {step}  loss: 5.0  tps: {tps:.6f}\n" for step, tps in speeds))
    entry = {"format": "torchtitan", "variant": "hot", "by": "a friend", **LOG}
    variants = {"hot": {"optim": {"lr": 0.5}}}
    grid = make_grid({"variants": variants, "evidence": [{"file": str(path), **entry}]})
    (found,) = read_evidence(grid.study)
    assert (found.mean_s, found.mean_error_s) == pytest.approx((2.0, 3**-0.5))
    assert (found.steady_steps, found.steady_intervals) == (39, 3)
    assert (found.cell.variant, found.cell.run.optim.lr, found.source) == ("hot", 0.5, "a friend")
    assert (found.steps_only, found.uninterrupted, found.startup_s, found.wall_s) == (
        True, False, None, None,
    )  # fmt: skip


def test_a_throughput_table_that_is_named_has_to_exist(make_grid: MakeGrid, tmp_path: Path) -> None:
    """That of the study need not, before the first run."""
    grid = make_grid()
    assert known_measurements(grid) == []
    with pytest.raises(ConfigError, match=r"none\.csv: 1 problem\n  cannot be read"):
        known_measurements(grid, tmp_path / "none.csv")


def test_nanogpt_log(make_grid: MakeGrid, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(
        "step 0: train loss 10.9, val loss 10.9\n"
        "iter 0: loss 10.9, time 9000.00ms, mfu -100.00%\n"
        "iter 10: loss 9.1, time 100.00ms, mfu 12.3%\n"
        "step 20: train loss 8.0, val loss 8.1\n"
        "iter 20: loss 8.2, time 4000.00ms, mfu 12.3%\n"
        "iter 30: loss 8.0, time 300.00ms, mfu 12.3%\n"
    )
    low, middle, high = steps_of(make_grid, path, format="nanogpt")
    assert (low, middle, high) == pytest.approx((0.12, 0.2, 0.28))


@pytest.mark.parametrize("kind", ["lingua", "torchtitan", "nanogpt"])
def test_a_log_without_a_steady_step_is_rejected(
    make_grid: MakeGrid, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "log.txt"
    path.write_text("")
    with pytest.raises(ConfigError, match="found no steady step"):
        steps_of(make_grid, path, format=kind)
    with pytest.raises(ConfigError, match="No such file"):
        steps_of(make_grid, tmp_path / "none", format=kind)
    with pytest.raises(
        ConfigError, match=r"evidence\[0\]\.format = \w+ is the log of one run; expected the"
    ):
        steps_of(make_grid, path, format=kind, gpus=None)


def test_a_log_without_its_format_is_recognised(make_grid: MakeGrid, tmp_path: Path) -> None:
    log = nanogpt_log(tmp_path / "nano.log")
    with pytest.raises(ConfigError, match=r"nano\.log: 1 problem\n.*line 1 looks like .*'nanogpt'"):
        read_evidence(with_evidence(make_grid, log, **LOG).study)


def nanogpt_log(path: Path, step_ms: float = 250) -> Path:
    path.write_text(
        "".join(f"iter {i}: loss 3.1, time {step_ms:.2f}ms, mfu 1%\n" for i in range(9))
    )
    return path


def test_a_log_has_measured_the_steps_but_not_the_start_up(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    """40 steps of 0.25 s take 10 s; the start-up of the model comes on top."""
    log = nanogpt_log(tmp_path / "nano.log")
    entry = {"file": str(log), "format": "nanogpt", **LOG}
    row = find_row(make_grid({"evidence": [entry], "estimate": {"steps": 40}}))
    assert row.basis == "Estimated from measured steps"
    assert row.step_s == 0.25
    assert row.startup_s is not None
    assert row.seconds is not None
    assert row.seconds > 10 + row.startup_s - 0.25
    assert "Estimated from measured steps by nano, start-up predicted" in to_markdown([row])
    assert "Verified" not in to_markdown([row])


@pytest.mark.parametrize(
    ("columns", "values", "note"),
    [
        ("", "", "Verified by speeds, start-up predicted"),
        (",startup_s", ",7", "Verified by speeds, over an unknown number of steps"),
        (",wall_s,steps", ",17,40", "Verified by speeds "),
        (",wall_s,steps", ",17,50", "Verified by speeds, start-up predicted"),
    ],
)
def test_a_table_without_a_start_up_says_so(
    make_grid: MakeGrid, tmp_path: Path, columns: str, values: str, note: str
) -> None:
    path = tmp_path / "speeds.csv"
    path.write_text(f"cluster,model,gpus,step_ms{columns}\nhere,tiny,2,250{values}\n")
    grid = make_grid({"evidence": [{"file": str(path)}], "estimate": {"steps": 40}})
    row = find_row(grid)
    assert note in to_markdown([row])
    log = {"file": str(nanogpt_log(tmp_path / "nano.log")), "format": "nanogpt", **LOG}
    both = make_grid({"evidence": [{"file": str(path)}, log], "estimate": {"steps": 40}})
    assert find_row(both).basis == "Verified"


def find_row(grid: Grid) -> Estimate:
    """Return the time of the cell that `LOG` names."""
    rows = estimate_table(grid, known_measurements(grid))
    return next(row for row in rows if (row.model, row.gpus) == ("tiny", 2))


def test_an_earlier_study_is_evidence_and_our_own_runs_come_first(make_grid: MakeGrid) -> None:
    earlier = make_grid()
    for cell in earlier.measured:
        write_run(cell, step_s=0.2)
    csv_path = Path(earlier.study.folder, "throughput.csv")
    write_table(throughput_rows(earlier), csv_path)
    csv_path.with_name("study.yaml").write_text(earlier.study.to_yaml())
    entry = {"file": str(csv_path), "format": "throughput"}
    later = make_grid({"study": "later", "evidence": [entry]})
    assert {item.source for item in known_measurements(later)} == {"study test"}
    named = make_grid({"study": "later", "evidence": [{**entry, "by": "a friend"}]})
    assert {item.source for item in known_measurements(named)} == {"a friend"}
    rows = estimate_table(later, known_measurements(later))
    assert {(row.basis, row.step_s) for row in rows} == {("Verified", 0.2)}
    assert {row.by for row in rows} == {"study test"}
    write_run(later[0], step_s=0.4)
    own = Path(later.study.folder, "throughput.csv")
    write_table(throughput_rows(later), own)
    rows = estimate_table(later, known_measurements(later, own))
    assert [row.step_s for row in rows] == [0.4, 0.2, 0.2, 0.2]
    assert ", by" not in rows[0].method


def test_a_table_of_an_earlier_study_needs_its_study(make_grid: MakeGrid, tmp_path: Path) -> None:
    """It said that study.yaml, which nobody had named, cannot be read."""
    path = tmp_path / "theirs.csv"
    path.write_text("cluster,model,gpus,step_ms_p50,fingerprint\nhere,tiny,2,10,0123\n")
    with pytest.raises(ConfigError) as error:
        read_evidence(with_evidence(make_grid, path, format="throughput").study)
    assert f"{path}: 1 problem\n  found no study.yaml beside it" in str(error.value)
    with pytest.raises(ConfigError) as error:
        read_evidence(with_evidence(make_grid, path, format="csv").study)
    assert "expected `format: throughput` for it, and its study.yaml" in str(error.value)
    path.unlink()
    with pytest.raises(ConfigError, match=r"theirs\.csv: 1 problem\n  cannot be read: No such"):
        read_evidence(with_evidence(make_grid, path, format="throughput").study)


def test_the_reference_table_regenerates_without_a_gpu(tmp_path: Path) -> None:
    """The guide's two rows are Verified by the guide, with its times; the others are estimated."""
    code = (
        "import sys; from study.__main__ import main\n"
        "status = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(status)"
    )
    output = tmp_path / "time_estimates.csv"
    study = str(ROOT / "config" / "studies" / "lingua.yaml")
    command = [sys.executable, "-c", code, "estimate", "--study", study, "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in output.with_suffix(".md").read_text().splitlines()[2:]]
    found = [(row[1].strip(), row[3].strip(), row[5].strip(), row[7].strip()) for row in rows]
    assert found[:2] == [
        ("small", "1x A100", "~1 min", "Verified by the guide"),
        ("small", "8x H200", "~2.5 min", "Verified by the guide"),
    ]
    assert [row[0] for row in found[2:5]] == ["40M", "80M", "160M"]
    assert all(row[3].startswith("Estimated by extrapolation") for row in found[2:5])
    # One H200, eager as the guide runs.
    assert found[5:] == [
        ("small", "1x H200", "~21 s", "Verified by our H200 study"),
        ("85M", "1x H200", "~32 s", "Verified by our H200 study"),
    ]
    assert all(row[6].strip() for row in rows)
