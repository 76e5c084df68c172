"""Whose checkpoints a folder holds, and that a run touches only its own."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest

from tests.trainer.small_runs import ALONE, SmallRun, make_summary, run_config, save_now, steps_in
from trainer.config import CheckpointConfig, RunConfig
from trainer.folder import checkpoint
from trainer.folder.checkpoint_state import Position, complete, folder_of
from trainer.folder.owner import check_replaces_nothing, claim, identify
from trainer.folder.run_file import find_summary
from trainer.folder.run_folder import set_aside
from trainer.problems import ConfigError

OURS = Position(2, 1.0, "ours", run="a")


def save(folder: Path, position: Position) -> None:
    run = SmallRun()
    save_now(folder, position, ["dump"], run.model, run.optimizer)


def write_lingua(folder: Path, step: int) -> Path:
    """Write the files of one of lingua's checkpoints; return its folder."""
    path = folder / f"{step:010d}"
    path.mkdir(parents=True)
    for name in (".metadata", "__0_0.distcp", "params.json", "train_state_00000.json"):
        (path / name).write_text(f"lingua's {name}")
    return path


def start(config: RunConfig) -> str:
    """Do what a run does with its folders at its start; return its id."""
    folder = Path(config.dump_dir)
    run_id = identify(config, folder, find_summary(folder))
    claim(config, folder, run_id)
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text(config.to_yaml())
    (folder / "run.json").write_text(make_summary(id=run_id, trajectory="ours").to_json())
    return run_id


def config_of(folder: Path, name: str, path: Path | None = None) -> RunConfig:
    where = None if path is None else str(path)
    return run_config(folder / name, name=name, checkpoint={"path": where})


def test_a_folder_named_by_two_runs_belongs_to_the_first(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    first, second = (config_of(tmp_path, name, shared) for name in ("first", "second"))
    run_id = start(first)
    assert start(first) == run_id
    with pytest.raises(ConfigError) as caught:
        start(second)
    assert str(caught.value).splitlines() == [
        f"{shared}: 1 problem",
        f"  checkpoint.path: belongs to the run 'first' in {tmp_path}/first; expected a folder of "
        "this run's own",
    ]


@pytest.mark.parametrize("below", ["", "checkpoints"])
def test_the_folder_of_another_run_is_refused(tmp_path: Path, below: str) -> None:
    start(config_of(tmp_path, "first"))
    with pytest.raises(ConfigError, match=rf"belongs to the run in {tmp_path}/first; expected"):
        start(config_of(tmp_path, "second", tmp_path / "first" / below))


def test_a_run_that_begins_where_another_saves_is_refused(tmp_path: Path) -> None:
    """Unless it saves nothing."""
    saves = tmp_path / "second" / "checkpoints"
    run_id = start(config_of(tmp_path, "first", saves))
    for step in (None, 2):
        if step is not None:
            save(saves, Position(step, 1.0, "ours", run=run_id))
        with pytest.raises(ConfigError, match="dump_dir: belongs to the run 'first'"):
            start(config_of(tmp_path, "second"))
    start(run_config(tmp_path / "second", checkpoint=None))


def test_only_a_folder_elsewhere_is_marked(tmp_path: Path) -> None:
    for name, path in (("here", None), ("there", tmp_path / "elsewhere")):
        start(config_of(tmp_path, name, path))
    assert [path.parent.name for path in tmp_path.rglob("owner.json")] == ["elsewhere"]


def test_a_damaged_mark_is_written_again(tmp_path: Path) -> None:
    config = config_of(tmp_path, "run", tmp_path / "elsewhere")
    run_id = start(config)
    mark = tmp_path / "elsewhere" / "owner.json"
    content = mark.read_text()
    mark.write_text("{")
    assert start(config) == run_id
    assert mark.read_text() == content


def test_the_folder_of_a_run_that_is_gone_is_not_taken_over(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    start(config_of(tmp_path, "first", shared))
    save(shared, OURS)
    shutil.rmtree(tmp_path / "first")
    start(config_of(tmp_path, "third"))  # a run of its own, with other checkpoints until now
    for name in ("second", "third"):
        with pytest.raises(ConfigError, match="belongs to the run 'first'"):
            start(config_of(tmp_path, name, shared))
    assert steps_in(shared) == [2]


def test_a_folder_of_its_own_within_another_run_is_taken(tmp_path: Path) -> None:
    start(config_of(tmp_path, "first"))
    start(config_of(tmp_path, "second", tmp_path / "first" / "of_second"))
    assert (tmp_path / "first" / "of_second" / "owner.json").exists()


@pytest.mark.parametrize("left", ["run.yaml", "run.json"])
def test_one_of_its_files_tells_that_a_folder_is_a_runs(tmp_path: Path, left: str) -> None:
    config = config_of(tmp_path, "run")
    start(config)
    (tmp_path / "run" / "metrics.jsonl").touch()
    for name in {"run.yaml", "run.json"} - {left}:
        (tmp_path / "run" / name).unlink()
    start(config)


@pytest.mark.parametrize("named", ["a" * 300, "\0", "~nobody", "/dev/null/x"])
def test_an_owner_that_names_no_folder_still_owns(tmp_path: Path, named: str) -> None:
    shared = tmp_path / "shared"
    start(config_of(tmp_path, "first", shared))
    save(shared, OURS)
    owner = json.loads((shared / "owner.json").read_text())
    (shared / "owner.json").write_text(json.dumps({**owner, "dump_dir": named}))
    with pytest.raises(ConfigError, match="belongs to the run 'first'"):
        start(config_of(tmp_path, "second", shared))
    assert steps_in(shared) == [2]


@pytest.mark.parametrize(
    ("status", "changes", "refused"),
    [
        ("completed", {}, False),
        ("completed", {"distributed": {"compile": True}}, True),  # the same losses, but faster
        ("completed", {"steps": 20}, True),
        ("failed", {"distributed": {"compile": True}}, False),  # is resumed
        ("failed", {"steps": 20}, True),
    ],
)
def test_overrides_of_a_runs_own_run_yaml_do_not_replace_it(
    tmp_path: Path, status: str, changes: dict[str, object], refused: bool
) -> None:
    """A file of the user's, with the same dump_dir, may do that."""
    config = run_config(tmp_path)
    facts = {"fingerprint": config.fingerprint(1), "trajectory": config.trajectory(1)}
    (tmp_path / "run.json").write_text(make_summary(status=status, **facts).to_json())
    for name in ("run.yaml", "mine.yaml"):
        (tmp_path / name).write_text(config.to_yaml())
    changed = run_config(tmp_path, **changes)
    check_replaces_nothing([tmp_path / "mine.yaml"], changed, 1)
    with pytest.raises(ConfigError) if refused else contextlib.nullcontext():
        check_replaces_nothing([tmp_path / "run.yaml"], changed, 1)


def test_checkpoints_of_lingua_are_refused(tmp_path: Path) -> None:
    write_lingua(tmp_path / "theirs" / "checkpoints", 100)
    with pytest.raises(ConfigError, match="holds 0000000100, which is not a checkpoint of this tr"):
        start(config_of(tmp_path, "run", tmp_path / "theirs" / "checkpoints"))
    for name in ("metrics.jsonl", "metrics.eval.jsonl"):
        (tmp_path / "theirs" / name).touch()
    for expected in ("metrics.jsonl", "metrics.eval.jsonl", "checkpoints/0000000100"):
        with pytest.raises(ConfigError, match=f"dump_dir: holds {expected} but no run.yaml"):
            start(config_of(tmp_path, "theirs"))
        if expected.startswith("metrics"):
            (tmp_path / "theirs" / expected).unlink()


def test_checkpoints_without_an_owner_need_the_run_that_wrote_them(tmp_path: Path) -> None:
    """As older versions leave them."""
    config = config_of(tmp_path, "run", tmp_path / "old")
    save(tmp_path / "old", Position(2, 1.0, "ours"))
    with pytest.raises(ConfigError, match="holds 0000000002, a checkpoint of another run"):
        start(config)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(make_summary(trajectory="ours").to_json())
    state = tmp_path / "old" / "0000000002" / "state.json"
    content = state.read_text()
    state.write_text(content[:-2])  # damaged: whose it is cannot be known
    with pytest.raises(ConfigError, match="holds 0000000002, a checkpoint of another run"):
        start(config)
    state.write_text(content)
    start(config)


def test_only_checkpoints_in_their_usual_place_need_no_owner(tmp_path: Path) -> None:
    for name in ("checkpoints", "saves"):
        save(tmp_path / "run" / name, Position(2, 1.0, "theirs"))
    (tmp_path / "run" / "run.json").write_text(make_summary(trajectory="ours").to_json())
    start(config_of(tmp_path, "run"))
    with pytest.raises(ConfigError, match="holds 0000000002, a checkpoint of another run"):
        start(config_of(tmp_path, "run", tmp_path / "run" / "saves"))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_may_be_moved(tmp_path: Path, elsewhere: bool) -> None:
    path = tmp_path / "elsewhere" if elsewhere else None
    run_id = start(config_of(tmp_path, "old", path))
    (tmp_path / "old").rename(tmp_path / "new")
    assert start(config_of(tmp_path, "new", path)) == run_id
    assert start(config_of(tmp_path, "new", path)) == run_id


def test_a_copy_of_a_run_has_no_right_to_checkpoints_elsewhere(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    start(config_of(tmp_path, "run", shared))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    with pytest.raises(ConfigError, match="belongs to the run 'run'"):
        start(config_of(tmp_path, "copy", shared))


def test_a_copy_of_a_run_with_all_its_checkpoints_is_a_run(tmp_path: Path) -> None:
    run_id = start(config_of(tmp_path, "run", tmp_path / "run" / "saves"))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert start(config_of(tmp_path, "copy", tmp_path / "copy" / "saves")) == run_id


def test_the_mark_alone_tells_whose_run_it_was(tmp_path: Path) -> None:
    """Killed before its first checkpoint, and without its run.json."""
    config = config_of(tmp_path, "run", tmp_path / "elsewhere")
    run_id = start(config)
    (tmp_path / "run" / "run.json").unlink()
    assert identify(config, tmp_path / "run", None) == run_id


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_without_run_json_knows_its_checkpoints(tmp_path: Path, elsewhere: bool) -> None:
    config = config_of(tmp_path, "run", tmp_path / "elsewhere" if elsewhere else None)
    folder = folder_of(config, tmp_path / "run")
    run_id = start(config)
    save(folder, Position(2, 1.0, "ours", run=run_id))
    (tmp_path / "run" / "run.json").write_text("")
    assert identify(config, tmp_path / "run", None) == run_id


def test_foreign_checkpoints_are_neither_counted_nor_pruned_nor_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They came into the run's folder after its start."""
    save(tmp_path, Position(1, 1.0, "ours", run="a"))
    save(tmp_path, Position(3, 1.0, "ours", run="another"))
    save(tmp_path, Position(4, 1.0, "other settings", run="a"))
    lingua = {step: write_lingua(tmp_path, step) for step in (2, 5)}
    newest = checkpoint.find_newest(tmp_path, OURS, ALONE)
    assert newest is not None
    assert newest.step == 1
    run = SmallRun()
    saver = checkpoint.Saver(tmp_path, CheckpointConfig(async_save=False), ALONE)
    for step in (2, 3):
        saver.save(Position(step, 1.0, "ours", run="a"), ["dump"], run.model, run.optimizer)
    assert steps_in(tmp_path) == [3, 4, 5]
    assert json.loads((tmp_path / "0000000003" / "state.json").read_text())["run"] == "a"
    assert (lingua[5] / "params.json").read_text() == "lingua's params.json"
    moved = tmp_path / "superseded"
    assert (moved / "1" / "0000000002" / "params.json").read_text() == "lingua's params.json"
    state = json.loads((moved / "2" / "0000000003" / "state.json").read_text())
    assert state["run"] == "another"
    assert capsys.readouterr().out.count("not this run's checkpoint; moved to") == 2


def test_a_damaged_checkpoint_of_the_run_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, OURS)
    (tmp_path / "0000000002" / "state.json").write_text("{")
    save(tmp_path, OURS)
    assert [path for path, _ in complete(tmp_path)] == [tmp_path / "0000000002"]
    assert not (tmp_path / "superseded").exists()


def test_unfinished_saves_of_killed_attempts_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".saving-0000000007").mkdir()
    (tmp_path / ".saving-0000000007" / "__0_0.distcp").touch()
    checkpoint.Saver(tmp_path, CheckpointConfig(), ALONE)
    assert not list(tmp_path.iterdir())


def test_other_settings_set_aside_only_the_runs_own(tmp_path: Path) -> None:
    config = config_of(tmp_path, "run", tmp_path / "elsewhere")
    run_id = start(config)
    save(tmp_path / "elsewhere", Position(2, 1.0, "ours", run=run_id))
    write_lingua(tmp_path / "elsewhere", 9)
    set_aside(tmp_path / "run", tmp_path / "elsewhere")
    assert steps_in(tmp_path / "elsewhere") == [9]
    assert (tmp_path / "elsewhere" / "superseded" / "1" / "0000000002" / "state.json").exists()
    assert (tmp_path / "run" / "superseded" / "1" / "run.json").exists()


def test_checkpoints_in_the_runs_folder_are_set_aside_also_if_it_names_them(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    run_id = start(config_of(tmp_path, "run", run / "checkpoints"))
    save(run / "checkpoints", Position(2, 1.0, "ours", run=run_id))
    set_aside(run)
    assert steps_in(run / "superseded" / "1" / "checkpoints") == [2]
    assert not (run / "checkpoints").exists()


def test_a_run_without_checkpoints_leaves_those_of_another_in_its_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_id = start(config_of(tmp_path, "other", run / "checkpoints"))
    save(run / "checkpoints", Position(2, 1.0, "ours", run=run_id))
    (run / "metrics.jsonl").touch()
    set_aside(run)
    assert steps_in(run / "checkpoints") == [2]
    assert not (run / "metrics.jsonl").exists()
