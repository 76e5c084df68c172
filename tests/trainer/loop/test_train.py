"""Whole runs of the trainer, started as a person starts them."""

import itertools
import json
import math
import signal
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from torch import Tensor

from tests.trainer.conftest import Runs, account, losses, read_records, wait_for_step
from tests.trainer.tokens.sources import write_parquet
from tests.trainer.tokens.tokenizer_files import make_hf
from tests.waiting import PATIENCE_S
from trainer.folder.checkpoint_state import entries, read_state
from trainer.loop.evaluate import bits_per_byte
from trainer.loop.stop_signal import StopSignal
from trainer.model.adamw import AdamW
from trainer.model.model import Transformer
from trainer.records import EXIT_PREEMPTED
from trainer.tokens.packing import Part
from trainer.tokens.shard_folder import Shards


def test_a_run_writes_its_documented_files(runs: Runs) -> None:
    done = runs.run()
    records, facts = read_records(runs.out()), account(runs.out())
    assert [record["global_step"] for record in records] == [1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert records[-1]["optim/total_tokens"] == 20 * 4 * 64
    assert set(records[0]) >= {
        "loss/out", "optim/lr", "optim/grad_norm", "memory/max_reserved_gib", "speed/wps",
        "speed/tokens_per_s", "speed/tflops_per_gpu", "time/elapsed_s", "time/step_s",
        "time/data_s", "time/checkpoint_s", "time/eval_s", "attempt", "data/epoch",
    }  # fmt: skip
    elapsed = [record["time/elapsed_s"] for record in records]
    assert elapsed == sorted(elapsed)
    assert facts["status"] == "completed"
    assert facts["outcome"] == "trained"
    assert facts["params"] == 2 * (4 * 32**2 + 3 * 32 * 96 + 2 * 32) + 2 * 258 * 32 + 32
    assert facts["loss_final"] == records[-1]["loss/out"]
    startup = facts["attempts"][0]["startup"]
    assert startup["total_s"] == pytest.approx(
        sum(seconds for name, seconds in startup.items() if name != "total_s"), abs=0.1
    )
    # The last evaluation and save come after the last record.
    unrecorded = facts["attempts"][0]["unrecorded"]
    assert unrecorded.keys() == {"steps_s", "data_s", "checkpoint_s", "eval_s"}
    assert unrecorded["eval_s"] > 0 < unrecorded["checkpoint_s"]
    recorded_s = sum(record["time/step_s"] * record["time/interval_steps"] for record in records)
    recorded_s += sum(record["time/checkpoint_s"] + record["time/eval_s"] for record in records)
    known_s = startup["total_s"] - startup["first_step_s"] + recorded_s + sum(unrecorded.values())
    assert known_s == pytest.approx(facts["attempts"][0]["wall_s"], abs=0.1)
    _, tokens = size_of(runs, "chunk.00")
    samples, windows = 20 * 4, (tokens - 1) // 64
    assert records[-1]["data/epoch"] == samples / windows
    evaluations = read_records(runs.out(), "metrics.eval.jsonl")
    assert [record["global_step"] for record in evaluations] == [10, 20]
    assert [record["eval/tokens"] for record in evaluations] == [8 * 64] * 2
    assert elapsed[5] < evaluations[0]["time/elapsed_s"] < elapsed[6]
    assert elapsed[-1] < evaluations[1]["time/elapsed_s"]
    assert evaluations[-1]["eval/loss"] == facts["loss_validation"]
    text, tokens = size_of(runs, "val")
    bits = evaluations[-1]["eval/loss"] * tokens / text / math.log(2)
    assert evaluations[-1]["eval/bits_per_byte"] == pytest.approx(bits)
    assert "step     20/20  loss " in done.stdout
    saved = sorted(path.name for path in (runs.out() / "checkpoints").iterdir())
    assert saved == ["0000000020"]


def test_a_resumed_run_draws_no_weights(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be replaced by those of the checkpoint; 1B take half a minute to draw."""
    settings = ("steps=10", "eval=null")
    assert runs.here(*settings, f"dump_dir={runs.out('whole')}") == 0
    answers = iter([False, False, True])
    monkeypatch.setattr(StopSignal, "agreed", lambda signal: next(answers, False))
    assert runs.here(*settings) == EXIT_PREEMPTED
    monkeypatch.setattr(Transformer, "init_weights", lambda model, seed: pytest.fail("drawn"))
    assert runs.here(*settings) == 0
    assert losses(runs.out())[-1] == losses(runs.out("whole"))[-1]


def test_bits_per_byte_of_token_ids_are_unknown() -> None:
    """The text that they stand for is not there; with it, ln 2 nats per token are a bit."""
    text = Shards(Path(), "", "<u2", Part(1, 9, 9), held_out=Part(2, 60, 120))
    ids, empty = (replace(text, held_out=Part(1, 20, size)) for size in (None, 0))
    assert bits_per_byte(math.log(2), {"a": text}, {"a": 7}) == pytest.approx(60 / 120)
    assert bits_per_byte(1.0, {"a": text, "b": ids}, {"a": 1, "b": 1}) is None
    assert bits_per_byte(1.0, {"a": empty}, {"a": 1}) is None


def test_bits_per_byte_count_the_text_that_was_read() -> None:
    """Three windows of 2 bytes a token and one of 5, whatever the length of each text.

    A source without a window does not count, nor does it matter that its bytes are unknown.
    """
    short = Shards(Path(), "", "<u2", Part(1, 9, 9), held_out=Part(2, 60, 120))
    long = replace(short, held_out=Part(2, 600_000, 3_000_000))
    unread = replace(short, held_out=Part(1, 20, None))
    windows = {"short": 3, "long": 1, "unread": 0}
    texts = {"short": short, "long": long, "unread": unread}
    bits = bits_per_byte(math.log(2), texts, windows)
    assert bits == pytest.approx(4 / (3 * 2 + 5))


def size_of(runs: Runs, name: str) -> tuple[int, int]:
    """Return the bytes of the text of a file, and its tokens: BOS and EOS around each document."""
    lines = (runs.folder / "data" / "text" / f"text.{name}.jsonl").read_text().splitlines()
    text = sum(len(json.loads(line)["text"].encode()) for line in lines)
    return text, text + 2 * len(lines)


def test_a_run_reads_parquet_with_a_tokenizer_json(runs: Runs) -> None:
    make_hf(runs.folder / "tokenizer.json")
    changes = ["steps=4", "data.tokenizer.name=hf"]
    changes.append(f"data.tokenizer.path={runs.folder / 'tokenizer.json'}")
    runs.run(*changes)
    for path in (runs.folder / "data" / "text").glob("*.jsonl"):
        texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        write_parquet(path.with_suffix(".parquet"), texts)
        path.unlink()
    runs.run(*changes, "data.load_async=false", f"dump_dir={runs.out('parquet')}")
    assert losses(runs.out("parquet")) == losses(runs.out())
    assert (
        account(runs.out())["params"] == 2 * (4 * 32**2 + 3 * 32 * 96 + 2 * 32) + 2 * 320 * 32 + 32
    )


def test_a_complete_run_is_not_run_again(runs: Runs) -> None:
    runs.run("steps=4")
    before = (runs.out() / "metrics.jsonl").read_text()
    again = runs.run("steps=4")
    assert "complete already" in again.stdout
    assert "warning" not in again.stdout
    assert (runs.out() / "metrics.jsonl").read_text() == before
    runs.run("steps=6")  # other settings: another run, and the first one is kept
    assert losses(runs.out())[-1][0] == 6
    assert (runs.out() / "superseded" / "1" / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_run_asked_to_stop_saves_and_reports_it(runs: Runs, number: signal.Signals) -> None:
    process = runs.start("steps=2000", "checkpoint={}")
    wait_for_step(runs.out(), 10)
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75, output
    facts = account(runs.out())
    assert facts["status"] == "preempted"
    newest = max(int(path.name) for path in (runs.out() / "checkpoints").iterdir())
    assert newest >= facts["steps_done"] >= 10


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        signal.SIGUSR1,  # which torchrun does not handle: it dies
        signal.SIGKILL,
    ],
)
def test_a_signal_to_the_launcher_saves_on_all_ranks(runs: Runs, number: signal.Signals) -> None:
    process = runs.start("steps=2000", "checkpoint={}", processes=2)
    wait_for_step(runs.out(), 10)
    ranks = psutil.Process(process.pid).children()
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    _, alive = psutil.wait_procs(ranks, timeout=PATIENCE_S)
    assert not alive
    facts = account(runs.out())
    assert facts["status"] == "preempted"
    assert max(int(path.name) for path in (runs.out() / "checkpoints").iterdir()) >= 10


@pytest.mark.parametrize(("victim", "number"), [(1, signal.SIGTERM), (0, signal.SIGUSR1)])
def test_a_signal_to_any_rank_ends_all_with_one_exit_code(
    runs: Runs, victim: int, number: signal.Signals
) -> None:
    """Without a launcher, which would show one exit code of its own for all of them."""
    ranks = start_ranks(runs, "steps=2000", "checkpoint={}")
    wait_for_step(runs.out(), 10)
    ranks[victim].send_signal(number)
    output = [rank.communicate(timeout=PATIENCE_S)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [EXIT_PREEMPTED, EXIT_PREEMPTED], output
    assert EXIT_PREEMPTED not in (0, 1, 128 + number)
    assert account(runs.out())["status"] == "preempted"
    saved = max(int(path.name) for path in (runs.out() / "checkpoints").iterdir())
    assert f"asked to stop at step {saved}; saved" in output[0]


def start_ranks(runs: Runs, *settings: str) -> list[subprocess.Popen[str]]:
    """Start a run on two processes, without a launcher."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    both = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    return [
        runs.start(*settings, RANK=rank, LOCAL_RANK=rank, MASTER_PORT=port, **both) for rank in "01"
    ]


def test_gpu_count_does_not_change_the_losses(runs: Runs) -> None:
    """One process, two processes, and accumulation: the same global batch, the same curve."""
    settings = ("steps=50", "checkpoint=null")
    runs.run(f"dump_dir={runs.out('one')}", *settings)
    runs.run(f"dump_dir={runs.out('two')}", "data.batch_size=2", *settings, processes=2)
    runs.run(f"dump_dir={runs.out('acc')}", "data.batch_size=1", "grad_acc_steps=4", *settings)
    one = losses(runs.out("one"))
    assert len(one) == 26
    for other in ("two", "acc"):
        for (step, loss), (other_step, other_loss) in zip(
            one, losses(runs.out(other)), strict=True
        ):
            assert step == other_step
            assert loss == pytest.approx(other_loss, abs=1e-4)
        found = account(runs.out(other))["loss_validation"]
        assert found == pytest.approx(account(runs.out("one"))["loss_validation"], abs=1e-4)


def test_a_diverged_run_is_a_result(runs: Runs) -> None:
    runs.run("optim.lr=1e30", "optim.warmup=0", "optim.clip=null")
    facts = account(runs.out())
    assert (facts["status"], facts["outcome"]) == ("completed", "diverged")
    last = read_records(runs.out())[-1]
    assert None in (last["loss/out"], last["optim/grad_norm"])
    assert last["global_step"] < 20


def test_a_loss_that_is_not_finite_replaces_no_checkpoint(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first step's weights are about 1e30, so later losses are not finite."""
    diverging = ("optim={lr: 1e30, warmup: 0}", "checkpoint.dump={every: 1, keep: 1}")
    assert runs.here(*diverging, "logging.freq=10", f"dump_dir={runs.out()}") == 0
    assert account(runs.out())["outcome"] == "diverged"
    assert read_records(runs.out())[-1]["global_step"] == 10
    (kept,) = entries(runs.out() / "checkpoints")
    assert math.isfinite(read_state(kept)["loss_sum"])
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("broken", "every", "ends"), [(20, 10, 20), (9, 9, 8)], ids=["last step", "evaluation"]
)
def test_weights_that_are_not_finite_end_a_run_as_diverged(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, broken: int, every: int, ends: int
) -> None:
    """In one step the gradients are NaN, after a finite loss. Records are of even steps."""
    break_gradients(monkeypatch, broken)
    assert (
        runs.here(f"eval.every={every}", "checkpoint={dump: {every: 20}, eval: {every: 20}}") == 0
    )
    facts = account(runs.out())
    assert (facts["outcome"], facts["steps_done"]) == ("diverged", ends)
    assert math.isfinite(facts["loss_final"])
    assert not entries(runs.out() / "checkpoints")
    evaluations = read_records(runs.out(), "metrics.eval.jsonl")
    assert [record["global_step"] for record in evaluations] == [every]
    assert (evaluations[0]["eval/loss"] is None) == (broken == every)


def break_gradients(monkeypatch: pytest.MonkeyPatch, broken: int) -> None:
    """Let the gradients of a step be NaN."""
    norms = itertools.count(1)
    usual = AdamW.grad_norm

    def grad_norm(optimizer: AdamW) -> Tensor:
        return usual(optimizer) * (math.nan if next(norms) == broken else 1.0)

    monkeypatch.setattr(AdamW, "grad_norm", grad_norm)


def test_weights_that_are_not_finite_replace_no_checkpoint(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of step 15, which is saved before the loss of step 16 shows it."""
    break_gradients(monkeypatch, 15)
    assert runs.here("checkpoint.dump={every: 5, keep: 1}", "eval=null") == 0
    assert account(runs.out())["outcome"] == "diverged"
    (kept,) = entries(runs.out() / "checkpoints")
    assert read_state(kept)["step"] == 10


def test_a_wrong_config_is_reported_without_a_traceback(runs: Runs) -> None:
    for arguments, expected in (
        (("optim.lrr=1",), "optim.lrr: unknown key; did you mean 'lr'?"),
        (("data.sources={nowhere: 1.0}", "data.root_dir=/nowhere"), "nowhere"),
        (("data.seq_len=10000000",), "10,000,001"),
    ):
        done = runs.run(*arguments, check=False)
        assert done.returncode == 1
        assert expected in done.stderr
        assert "Traceback" not in done.stderr


def test_one_rank_of_several_reports_text_that_is_not_there(runs: Runs) -> None:
    """A traceback of another, which waits for it, would be the failure to be told, and retried."""
    ranks = start_ranks(runs, "data.sources={nowhere: 1.0}")
    first, second = (rank.communicate(timeout=PATIENCE_S)[0] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert "nowhere: 1 problem\n  no such folder; expected a folder with files" in first
    assert second == ""
    failure = json.loads((runs.out() / "failure.json").read_text())
    assert (failure["kind"], failure["retry"]) == ("configuration", False)


def test_bf16_follows_fp32(runs: Runs) -> None:
    runs.run(f"dump_dir={runs.out('fp32')}", "eval=null")
    runs.run(f"dump_dir={runs.out('bf16')}", "eval=null", "distributed.model_dtype=bf16")
    for (_, a), (_, b) in zip(losses(runs.out("fp32")), losses(runs.out("bf16")), strict=True):
        assert a == pytest.approx(b, rel=0.02)
    assert losses(runs.out("fp32")) != losses(runs.out("bf16"))


def test_slurms_variables_are_not_read(runs: Runs) -> None:
    hostile = {
        "SLURM_PROCID": "5", "SLURM_NTASKS": "64", "SLURM_LOCALID": "3",
        "SLURM_JOB_NODELIST": "no-such-host[1-8]", "SLURM_NODEID": "2",
    }  # fmt: skip
    runs.run("steps=2", **hostile)
    assert account(runs.out())["gpus"] == 1


def test_environment_variables_are_not_recorded(runs: Runs) -> None:
    done = runs.run("steps=2", SECRET_TOKEN="hunter2")
    written = "".join(path.read_text() for path in runs.out().glob("*.json*"))
    assert "hunter2" not in written + done.stdout + done.stderr


def test_a_loss_can_be_learned(runs: Runs) -> None:
    runs.run("steps=60", "checkpoint=null", "eval.every=25")
    curve = losses(runs.out())
    assert curve[0][1] == pytest.approx(math.log(258) + 0.49, abs=0.3)
    assert curve[-1][1] < 3.5
    evaluations = read_records(runs.out(), "metrics.eval.jsonl")
    assert [record["global_step"] for record in evaluations] == [25, 50, 60]
    assert evaluations[-1]["eval/loss"] < evaluations[0]["eval/loss"]
    assert not (runs.out() / "checkpoints").exists()
