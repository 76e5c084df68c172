"""Runs that continue others, or themselves after damage: what they read, train and leave alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.conftest import Runs, digest_of, losses, read_records
from tests.trainer.small_runs import ALONE, SmallRun, make_summary, run_config, save_now
from trainer.config import RunConfig, load_run_config
from trainer.folder import checkpoint
from trainer.folder.checkpoint_state import Position, of_step
from trainer.folder.owner import check_replaces_nothing
from trainer.folder.source import Source, find_source
from trainer.problems import ConfigError
from trainer.tokens.order import DataStart, SampleOrder, count_taken

WSD = "optim={scheduler: wsd, decay_fraction: 0.4, warmup: 2, lr: 3e-3}"
KEEP = "checkpoint={dump: {every: 4, keep: 0}, eval: {every: 10}}"


@pytest.fixture
def trunk(runs: Runs) -> Path:
    """Return the folder of a run of 30 steps, of which the last 12 decay."""
    assert runs.here("steps=30", WSD, KEEP, "logging.freq=1", f"dump_dir={runs.out('trunk')}") == 0
    return runs.out("trunk")


def branch(runs: Runs, source: Path, *settings: str, name: str = "branch") -> Path:
    out = runs.out(name)
    keys = [WSD, KEEP, "logging.freq=1", f"checkpoint.continue_from={source}"]
    assert runs.here("steps=20", *keys, f"dump_dir={out}", *settings) == 0
    return out


def test_a_decay_branch_equals_a_run_trained_through(runs: Runs, trunk: Path) -> None:
    """The decay of 20 steps begins after step 12, that of the trunk's 30 after step 18."""
    before = digest_of(trunk)
    through = runs.out("through")
    assert runs.here("steps=20", WSD, KEEP, "logging.freq=1", f"dump_dir={through}") == 0
    out = branch(runs, trunk / "checkpoints" / "0000000012")
    assert [step for step, _ in losses(out)] == list(range(13, 21))
    assert losses(out) == losses(through)[12:]
    assert losses(out) != losses(trunk)[12:20]
    for key in ("optim/total_tokens", "data/epoch", "optim/lr", "loss/out"):
        expected = [record[key] for record in read_records(through)[12:]]
        assert [record[key] for record in read_records(out)] == expected
    ours, theirs = (
        checkpoint.load_weights(of_step(path / "checkpoints", 20)) for path in (out, through)
    )
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    assert digest_of(trunk) == before
    summary = json.loads((out / "run.json").read_text())
    # The first step of an attempt, whatever its number, ends its start-up.
    assert summary["attempts"][0]["startup"]["total_s"] > 0
    continued = summary["continued"]
    assert continued["path"] == str(trunk / "checkpoints" / "0000000012")
    assert continued["step"] == 12


def test_the_named_run_is_continued_and_no_other(runs: Runs, trunk: Path) -> None:
    """The fingerprint depends on the name and not on the path."""
    source, name = trunk / "checkpoints" / "0000000012", "checkpoint.continue_run"
    known = json.loads((trunk / "run.json").read_text())["trajectory"]
    out = branch(runs, source, f"{name}={known}-12")
    assert [step for step, _ in losses(out)] == list(range(13, 21))
    moved = trunk.rename(runs.out("moved"))
    again = [f"checkpoint.continue_from={moved / 'checkpoints' / source.name}"]
    again += [f"{name}={known}-12", "steps=20", WSD, KEEP, "logging.freq=1", f"dump_dir={out}"]
    assert runs.here(*again) == 0
    assert "superseded" not in {path.name for path in out.iterdir()}
    for other in (f"{known}-8", f"{'0' * 16}-12"):
        keys = [*again[:1], f"{name}={other}", *again[2:-1], f"dump_dir={runs.out('refused')}"]
        with pytest.raises(ConfigError, match=f"is checkpoint {known}-12; expected {other}"):
            runs.here(*keys)
    with pytest.raises(ConfigError, match=r"checkpoint\.continue_run: needs continue_from"):
        runs.here(f"{name}={known}-12", "steps=20", f"dump_dir={runs.out('refused')}")


def test_a_run_is_continued_from_its_newest_checkpoint(runs: Runs, trunk: Path) -> None:
    """Twice, the second time with smaller micro-batches and the first run gone."""
    longer = branch(runs, trunk, "steps=32")
    assert [step for step, _ in losses(longer)] == [31, 32]
    trunk.rename(runs.out("gone"))
    again = branch(runs, longer, "steps=34", "data.batch_size=2", "grad_acc_steps=2", name="again")
    assert [step for step, _ in losses(again)] == [33, 34]
    assert read_records(again)[-1]["optim/total_tokens"] == 34 * 4 * 64


def test_the_samples_go_on_unless_the_text_has_changed_since(runs: Runs, trunk: Path) -> None:
    source, begun = trunk / "checkpoints" / "0000000012", {"step": 12, "tokens": 12 * 4 * 64}
    text = runs.folder / "data" / "text" / "text.chunk.00.jsonl"
    for name, sample in (("same", 12 * 4), ("changed", 0)):
        out = branch(runs, source, name=name)
        state = json.loads((out / "checkpoints" / "0000000020" / "state.json").read_text())
        assert state["data"] == {**begun, "sample": sample, "taken": {}}
        text.write_text("".join(text.read_text().splitlines(keepends=True)[1:]))


def test_a_resumed_run_goes_on_from_its_own_checkpoints(
    runs: Runs, trunk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = trunk / "checkpoints" / "0000000012"
    out = branch(runs, source)
    expected, records = losses(out), read_records(out)
    interrupt(out, 20)
    (out / "run.json").write_bytes(b"")  # as a power loss may leave it
    source.rename(runs.out("gone"))
    branch(runs, source)
    assert "run.json cannot be read; resuming without it" in capsys.readouterr().out
    assert losses(out) == expected
    assert [record["attempt"] for record in read_records(out)] == [1] * 4 + [2] * 4
    facts = json.loads((out / "run.json").read_text())
    assert [attempt["attempt"] for attempt in facts["attempts"]] == [2]
    assert facts["loss_final"] == records[-1]["loss/out"]
    assert facts["status"] == "completed"


def test_a_resumed_branch_still_says_what_it_continues(runs: Runs, trunk: Path) -> None:
    out = branch(runs, trunk / "checkpoints" / "0000000012")
    before = json.loads((out / "run.json").read_text())
    interrupt(out, 20)
    branch(runs, trunk / "checkpoints" / "0000000012")
    after = json.loads((out / "run.json").read_text())
    assert before["continued"]["step"] == 12
    assert after["continued"] == before["continued"]
    assert [attempt["first_step"] for attempt in after["attempts"]] == [13, 17]


def interrupt(out: Path, step: int) -> None:
    """Leave a completed run as if it had been killed before it saved a step."""
    facts = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**facts, "status": "running", "outcome": None}))
    (out / "checkpoints" / f"{step:010d}").rename(out.with_name(f"unsaved-{out.name}"))


def test_two_processes_continue_what_one_has_saved(runs: Runs, trunk: Path) -> None:
    through = runs.out("through")
    assert runs.here("steps=20", WSD, KEEP, "logging.freq=1", f"dump_dir={through}") == 0
    source = trunk / "checkpoints" / "0000000012"
    keys = [f"config={runs.config}", WSD, KEEP, "logging.freq=1", "steps=20", "data.batch_size=2"]
    keys += [f"checkpoint.continue_from={source}", f"dump_dir={runs.out()}"]
    runs.run_several([keys], processes=2)
    found, expected = losses(runs.out()), losses(through)[12:]
    assert [step for step, _ in found] == [step for step, _ in expected]
    for (_, ours), (_, theirs) in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    for record in read_records(runs.out()):
        assert record["speed/tokens_per_s"] == pytest.approx(4 * 64 / record["time/step_s"])
        assert record["speed/wps"] == pytest.approx(record["speed/tokens_per_s"] / 2)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["steps=12"], "is at step 12; expected less than steps = 12"),
        (["model.n_heads=1"], "found model.n_heads = 2; expected 1, as in this run"),
        (["model.rope_theta=5e5"], "found model.rope_theta = 10000.0; expected 500000.0, as in"),
        (
            ["model.rope_scaling={rope_type: linear, factor: 2.0}"],
            "found model.rope_scaling = none; expected {'rope_type': 'linear', 'factor': 2.0",
        ),
        (["model.qk_norm=true"], "found model.qk_norm = False; expected True, as in this run"),
        (["model.sliding_window=8"], "found model.sliding_window = all; expected 8, as in this"),
        (["data.seq_len=32"], "found data.seq_len = 64; expected 32, as in this run"),
        (["data.tokenizer.n_words=300"], "found data.tokenizer.n_words = 258; expected 300, as"),
        (["data.seed=7"], "found the seed of the sampling order = 42; expected 7, as in this run"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    tmp_path: Path, settings: list[str], expected: str
) -> None:
    position = Position(12, 1.0, "trajectory", content={"text": "a"}, global_batch=4)
    source = Source(tmp_path / "0000000012", position, config_of(tmp_path))
    with pytest.raises(ConfigError) as caught:
        source.continued(config_of(tmp_path, *settings), Position(0, 0.0, "new"))
    first, second = str(caught.value).splitlines()[:2]
    assert first.startswith(f"{tmp_path}/0000000012: ")
    assert second.startswith(f"  checkpoint.continue_from: {expected}")


def test_another_file_of_the_tokenizer_is_refused(tmp_path: Path) -> None:
    position = Position(12, 1.0, "trajectory", tokenizer="hf sha256=1", global_batch=4)
    source = Source(tmp_path, position, config_of(tmp_path))
    with pytest.raises(
        ConfigError, match="found the tokenizer = hf sha256=1; expected hf sha256=2"
    ):
        source.continued(config_of(tmp_path), Position(0, 0.0, "new", tokenizer="hf sha256=2"))


def config_of(folder: Path, *settings: str) -> RunConfig:
    runs = [f"dump_dir={folder}", "steps=20", "model={dim: 32, n_layers: 1, n_heads: 2}"]
    data = "data={root_dir: data, sources: {a: 3.0, b: 1.0}, batch_size: 4, seq_len: 64}"
    return load_run_config([*runs, data, *settings])


def test_sources_that_are_none_are_refused(runs: Runs) -> None:
    lingua = runs.folder / "lingua" / "0000000100"
    lingua.mkdir(parents=True)
    (lingua / "train_state_00000.json").touch()
    for path in (runs.folder / "nowhere", lingua.parent, lingua):
        with pytest.raises(ConfigError, match=r"continue_from: found no intact checkpoint; expec"):
            branch(runs, path)
    with pytest.raises(ConfigError, match="contradicts init_ckpt_path, which takes only weights"):
        branch(runs, runs.folder, f"checkpoint.init_ckpt_path={runs.folder}")


def test_a_checkpoint_that_lacks_what_a_run_continues_is_refused(tmp_path: Path) -> None:
    """Its run's settings, its batch, as in older versions; or its state is damaged."""
    SmallRun().save(tmp_path, 3, "dump")
    saved = of_step(tmp_path, 3)
    for path in (tmp_path, saved):
        with pytest.raises(ConfigError, match=r"/0000000003: .*\n.*found no run\.yaml; expec"):
            find_source(path, ALONE)
    config = config_of(tmp_path)
    (saved / "run.yaml").write_text(config.to_yaml())
    source = find_source(saved, ALONE)
    assert (source.path, source.position.step) == (saved, 3)
    with pytest.raises(ConfigError, match=r"found no global_batch in state\.json; expec"):
        source.continued(config, Position(0, 0.0, "new"))
    (saved / "state.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"continue_from: cannot be read: state\.json was chan"):
        find_source(saved, ALONE)


def test_a_run_cannot_continue_itself(runs: Runs) -> None:
    runs.here("steps=4", f"dump_dir={runs.out('branch')}")
    with pytest.raises(ConfigError, match="is this run's own; expected another run's, or another"):
        branch(runs, runs.out("branch"))
    assert (runs.out("branch") / "checkpoints" / "0000000004").exists()


def start_of(position: Position, tmp_path: Path, *settings: str, **start: object) -> DataStart:
    source = Source(tmp_path, position, config_of(tmp_path))
    first = Position(0, 0.0, "new", content=position.content)
    return source.continued(config_of(tmp_path, *settings), replace(first, **start)).data


REACHED = Position(10, 1.0, "old", content={"a": "1", "b": "2"}, global_batch=4)


def test_the_data_go_on_at_the_next_sample(tmp_path: Path) -> None:
    """10 steps of 4 sequences of 64 tokens, then whatever the batch, then again."""
    first = start_of(REACHED, tmp_path, "data.batch_size=16")
    assert first == DataStart(step=10, sample=40, tokens=2560)
    reached = replace(REACHED, step=15, global_batch=16, data=first)
    assert start_of(reached, tmp_path) == DataStart(step=15, sample=120, tokens=7680)


def test_a_source_goes_on_where_it_stopped_in_another_mix(tmp_path: Path) -> None:
    read = count_taken({"a": 3.0, "b": 1.0}, 42, 40)
    assert sum(read.values()) == 40
    changed = start_of(REACHED, tmp_path, "data.sources={a: 1.0, b: 9.0}")
    assert changed == DataStart(step=10, sample=0, tokens=2560, taken=read)
    other_text = start_of(REACHED, tmp_path, content={"a": "1", "b": "changed"})
    assert other_text == DataStart(step=10, sample=0, tokens=2560, taken={"a": read["a"]})
    reached = replace(REACHED, step=15, data=changed)
    source = Source(tmp_path, reached, config_of(tmp_path, "data.sources={a: 1.0, b: 9.0}"))
    first = Position(0, 0.0, "new", content=REACHED.content)
    again = source.continued(config_of(tmp_path), first)
    more = count_taken({"a": 1.0, "b": 9.0}, 42, 20)
    assert again.data.taken == {name: read[name] + more[name] for name in "ab"}


@pytest.mark.parametrize("samples", [0, 1, 500, 70_000, 140_000])
def test_no_window_is_read_twice_and_none_is_left_out(samples: int) -> None:
    """Of a source, over two mixes: the windows are those of the source alone, in order."""
    tokens, seed, later = {"a": 10_000_001, "b": 5_000_001}, 3, 300
    mixes = {"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 2.0}
    taken = count_taken(mixes[0], seed, samples)
    before = SampleOrder(tokens, mixes[0], 10, seed).locate(np.arange(samples))
    after = SampleOrder(tokens, mixes[1], 10, seed, taken).locate(np.arange(later))
    for index, name in enumerate("ab"):
        assert (before.source == index).sum() == taken[name]
        read = np.concatenate([found.start[found.source == index] for found in (before, after)])
        alone = SampleOrder({name: tokens[name]}, {name: 1.0}, 10, seed)
        assert (read == alone.locate(np.arange(len(read))).start).all()
    order = SampleOrder(tokens, mixes[1], 10, seed, taken)
    assert order.epoch(0) == max(taken["a"] / 1_000_000, taken["b"] / 500_000)


def test_records_without_a_checkpoint_are_set_aside(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.here("steps=6")
    old = (runs.out() / "metrics.jsonl").read_text()
    interrupt(runs.out(), 6)
    runs.here("steps=6")
    kept = runs.out() / "superseded" / "1"
    assert (kept / "metrics.jsonl").read_text() == old
    assert f"starts again; the earlier records are in {kept}" in capsys.readouterr().out
    assert [record["attempt"] for record in read_records(runs.out())] == [2] * 4
    assert len(json.loads((runs.out() / "run.json").read_text())["attempts"]) == 2


def test_other_held_out_text_does_not_start_a_run_again(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.here("steps=12")
    held_out = runs.folder / "data" / "text" / "text.val.jsonl"
    held_out.write_text(held_out.read_text().splitlines(keepends=True)[0])
    runs.here("steps=12")
    assert "the run is complete already" in capsys.readouterr().out
    interrupt(runs.out(), 12)
    runs.here("steps=12")
    output = capsys.readouterr().out
    assert "warning: " in output
    assert "the held-out text has changed since the run began" in output
    assert f"{runs.out()}: resuming from step 10" in output
    assert not (runs.out() / "superseded").exists()
    training = runs.folder / "data" / "text" / "text.chunk.00.jsonl"
    training.write_text(training.read_text().splitlines(keepends=True)[0] * 2)
    runs.here("steps=12")
    assert "settings or text have changed; the earlier run is in" in capsys.readouterr().out


def test_an_edit_that_is_reverted_trains_nothing(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.here("steps=4")
    first = digest_of(runs.out())
    runs.here("steps=6")
    runs.here("steps=8")
    capsys.readouterr()
    runs.here("steps=4")
    output = capsys.readouterr().out
    assert f"the run in {runs.out()}/superseded/1 has these settings; it is back" in output
    assert "the run is complete already" in output
    now = digest_of(runs.out())
    assert {name: digest for name, digest in now.items() if "superseded" not in name} == first
    kept = {path.name: json.loads((path / "run.json").read_text())["steps_done"]
            for path in (runs.out() / "superseded").iterdir()}  # fmt: skip
    assert kept == {"2": 6, "3": 8}
    runs.here("steps=5")  # nothing is overwritten
    assert {path.name for path in (runs.out() / "superseded").iterdir()} == {"2", "3", "4"}
    text = runs.folder / "data" / "text" / "text.chunk.00.jsonl"
    text.write_text(text.read_text() * 2)
    runs.here("steps=6")  # the same settings, of another text
    assert read_records(runs.out())[-1]["global_step"] == 6
    assert len(list((runs.out() / "superseded").iterdir())) == 4


def test_a_finished_run_is_not_replaced_by_mistake(runs: Runs) -> None:
    """Its own run.yaml and an override were enough."""
    runs.here("steps=4")
    own = f"config={runs.out() / 'run.yaml'}"
    before = digest_of(runs.out())
    done = runs.run(own, "steps=6", check=False)
    told = done.stderr
    assert done.returncode == 1
    assert f"dump_dir: names the folder of a run with other settings ({runs.out()})" in told
    assert "expected dump_dir=ANOTHER_FOLDER too" in told
    assert digest_of(runs.out()) == before

    def is_accepted(*arguments: str, gpus: int = 1) -> bool:
        try:
            check_replaces_nothing([runs.out() / "run.yaml"], load_run_config(arguments), gpus)
        except ConfigError:
            return False
        return True

    assert is_accepted(own, "name=other")  # which no result depends on
    assert is_accepted(own, "steps=6", f"dump_dir={runs.out('other')}")
    assert not is_accepted(own, gpus=2)
    interrupt(runs.out(), 4)
    assert is_accepted(own, "logging.freq=1")  # goes on with the run
    assert not is_accepted(own, "steps=6")


def test_a_run_folder_always_holds_its_settings(runs: Runs) -> None:
    runs.here("steps=2")
    settings = (runs.out() / "run.yaml").read_text()
    assert load_run_config([f"config={runs.out() / 'run.yaml'}"]).to_yaml() == settings
    (runs.out() / "run.yaml").unlink()
    runs.here("steps=2")
    assert (runs.out() / "run.yaml").read_text() == settings


def test_a_tokenizer_that_is_not_known_is_not_another_one(tmp_path: Path) -> None:
    """As of a checkpoint of an older version."""
    config, start = run_config(tmp_path), Position(0, 0.0, "ours", content={}, tokenizer="bytes")
    reached = Position(2, 1.0, "theirs", content={}, global_batch=8)
    assert Source(tmp_path, reached, config).continued(config, start).step == 2
    other = Source(tmp_path, replace(reached, tokenizer="other"), config)
    with pytest.raises(ConfigError, match="found the tokenizer = other; expected bytes"):
        other.continued(config, start)


def test_the_checkpoints_of_run_json_are_continued(tmp_path: Path) -> None:
    """Not those that a run of other settings has left in the folder."""
    run, settings = SmallRun(), run_config(tmp_path).to_yaml()
    for step, trajectory in ((2, "ours"), (3, "theirs")):
        position = Position(step, 1.0, trajectory)
        save_now(tmp_path / "checkpoints", position, ["dump"], run.model, run.optimizer)
        (of_step(tmp_path / "checkpoints", step) / "run.yaml").write_text(settings)
    (tmp_path / "run.yaml").write_text(settings)
    (tmp_path / "run.json").write_text(make_summary(trajectory="ours").to_json())
    assert find_source(tmp_path, ALONE).position.step == 2
