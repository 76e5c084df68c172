import dataclasses
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.trainer.conftest import Runs, read_records
from trainer.config import RunConfig
from trainer.folder.trackers import Trackers, check_trackers, make_id, numbers
from trainer.output_config import WandbConfig
from trainer.problems import ConfigError

OFFLINE = {"wandb": {"mode": "offline"}}


def configure(folder: Path, logging: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate(
        {
            "dump_dir": str(folder),
            "steps": 10,
            "model": {"dim": 32, "n_layers": 1, "n_heads": 2},
            "data": {"root_dir": "data", "sources": {"text": 1.0}},
            "logging": logging,
        }
    )


def drawn(folder: Path, tag: str) -> list[tuple[int, float]]:
    """Return (step, value) of a curve, as TensorBoard reads it."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_shows_the_records_of_a_resumed_run_once(tmp_path: Path) -> None:
    config = configure(tmp_path, {"tensorboard": True})
    for done, value in ((0, 1.0), (3, 2.0)):
        trackers = Trackers(config, done, "began")
        for step in range(done + 1, done + 6):
            trackers.write({"global_step": step, "loss/out": value, "memory": None})
        if done == 0:
            trackers.write({"global_step": 5, "eval/loss": float("nan")})
        trackers.close()
    assert drawn(tmp_path, "loss/out") == [
        *((step, 1.0) for step in (1, 2, 3)),
        *((step, 2.0) for step in (4, 5, 6, 7, 8)),
    ]


def test_tensorboard_shows_a_record_at_once(tmp_path: Path) -> None:
    trackers = Trackers(configure(tmp_path, {"tensorboard": True}), 0, "began")
    trackers.write({"global_step": 1, "loss/out": 1.5})
    assert drawn(tmp_path, "loss/out") == [(1, 1.5)]
    trackers.close()


def test_only_numbers_are_sent() -> None:
    record = {"global_step": 7, "loss/out": 1.5, "attempt": 2, "memory": None, "slow": {"rank": 1}}
    assert numbers(record) == {"loss/out": 1.5, "attempt": 2}


def test_complete_runs_have_their_records_everywhere(runs: Runs) -> None:
    settings = (
        "logging.tensorboard=true",
        "logging.wandb={mode: offline, project: p, tags: [a]}",
        "checkpoint.eval.every=4",
    )
    runs.run("steps=8", *settings, WANDB_DIR=str(runs.folder), processes=2)
    records = read_records(runs.out())
    losses = [(r["global_step"], pytest.approx(r["loss/out"])) for r in records]
    assert drawn(runs.out(), "loss/out") == losses
    evaluations = read_records(runs.out(), "metrics.eval.jsonl")
    assert [step for step, _ in drawn(runs.out(), "eval/loss")] == [4, 8]
    assert drawn(runs.out(), "eval/loss")[-1][1] == pytest.approx(evaluations[-1]["eval/loss"])
    (folder,) = (runs.out() / "wandb").glob("offline-run-*")
    began = json.loads((runs.out() / "run.json").read_text())["attempts"][0]["start"]
    assert folder.name.endswith(make_id(str(runs.out()), began))
    (file,) = folder.glob("*.wandb")
    content = file.read_bytes()
    for record in (records[-1], evaluations[-1]):
        # A busy machine may have a slow rank, whose keys wandb writes in its own way.
        own = {"global_step", "ranks/slow"}
        known = {key for key, value in record.items() if value is not None}
        for key in known - own:
            assert key.encode() in content, key


def test_attempts_share_an_id_and_other_runs_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_id(str(tmp_path), "2026-01-01")
    assert one == make_id(str(tmp_path), "2026-01-01")
    assert len({one, make_id(str(tmp_path / "x"), "2026-01-01"), make_id(str(tmp_path), "2")}) == 3
    monkeypatch.chdir(tmp_path)
    assert make_id("x", "2026-01-01") == make_id(str(tmp_path / "x"), "2026-01-01")


def test_wandb_gets_the_users_settings_and_our_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    given: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "init", lambda **arguments: given.append(arguments))
    own = {"project": "p", "id": "mine", "mode": "offline"}
    for settings in (own, {}):
        Trackers(configure(tmp_path, {"wandb": settings}), 0, "began")
    assert {key: given[0][key] for key in own} == own
    assert given[1]["id"] == make_id(str(tmp_path), "began")
    assert (given[1]["name"], given[1]["dir"]) == ("run", str(tmp_path))
    assert "mode" not in given[1]
    assert all(arguments["resume"] == "allow" for arguments in given)
    assert given[0]["config"]["optim"]["lr"] == 3e-4
    settings = given[0]["settings"]
    assert (settings.console, settings.login_timeout) == ("off", 30)


def test_wandb_gets_every_key_that_lingua_passes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    assert set(WandbConfig.model_fields) <= set(inspect.signature(wandb.init).parameters)
    own = {"resume": "never", "tags": ["a"], "save_code": True, "config_exclude_keys": ["optim"]}
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "init", lambda **arguments: given.append(arguments))
    Trackers(configure(tmp_path, {"wandb": {**own, "anonymous": None}}), 0, "began")
    assert {key: given[0][key] for key in own} == {
        **own,
        "tags": ("a",),
        "config_exclude_keys": ("optim",),
    }
    assert "anonymous" not in given[0]
    assert json.loads(json.dumps(given[0]["config"])) == given[0]["config"]


@dataclasses.dataclass
class Broken:
    """A module whose tracker fails at one of its calls."""

    at: str

    def Settings(self, **settings: Any) -> None:  # noqa: N802
        return None

    def init(self, **settings: Any) -> "Broken":
        return self.fail("init")

    def log(self, *record: Any, **step: Any) -> None:
        self.fail("log")

    def finish(self) -> None:
        self.fail("finish")

    def fail(self, at: str) -> "Broken":
        if at == self.at:
            raise ConnectionError("no network")
        return self


@pytest.mark.parametrize("at", ["init", "log", "finish"])
def test_a_tracker_that_fails_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at: str
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Broken(at))
    config = configure(tmp_path, {**OFFLINE, "tensorboard": True})
    trackers = Trackers(config, 0, "began")
    for step in (1, 2):
        trackers.write({"global_step": step, "loss/out": 1.0})
    trackers.close()
    assert capsys.readouterr().out == (
        "warning: wandb: failed, gets no more records: ConnectionError: no network\n"
    )
    assert [step for step, _ in drawn(tmp_path, "loss/out")] == [1, 2]


def test_a_missing_library_is_reported_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(tmp_path, {**OFFLINE, "tensorboard": True})
    check_trackers(config)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_trackers(configure(tmp_path, {}))
    with pytest.raises(ConfigError) as caught:
        check_trackers(config)
    first, second = map(str, caught.value.problems)
    assert first.startswith("logging.wandb: needs `pip install wandb`")
    assert second.startswith("logging.tensorboard: needs `pip install tensor")


def test_a_run_without_login_continues(runs: Runs) -> None:
    """wandb would ask for a key, or a network."""
    away = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "", "HOME": str(runs.folder)}
    done = runs.run("steps=2", "logging.wandb={}", **away)
    assert done.stdout.count("warning: wandb: failed, gets no more records") == 1
    assert read_records(runs.out())[-1]["global_step"] == 2
