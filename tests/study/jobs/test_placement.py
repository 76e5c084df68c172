"""Which cluster a cell with several goes to, with a Slurm that answers as it is told."""

import json
import re
import shlex
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.__main__ import main
from study.grid import Cell, Grid
from study.jobs.progress import time_in
from study.jobs.prospects import Backlog
from study.jobs.sbatch_answers import count_nodes, find_start
from study.jobs.slurm_commands import Answer
from study.jobs.workflow import load_config
from study.load import load_grid_file
from study.placements import Placement, read_placements, record_placements
from study.show.plan import format_placements
from tests.study.conftest import write_run
from tests.study.jobs.stand_ins import answering, ask_instead
from trainer.problems import ConfigError

STEPS = 3601
"""An hour at 1 s a step, without the start-up."""

EVIDENCE = """cluster,model,gpus,step_ms,startup_s
left,tiny,8,1000,10
right,tiny,8,1000,10
fast,tiny,8,100,10
"""


def cluster(partition: str, **changes: Any) -> dict[str, Any]:
    slurm = {"account": "nlp", "partition": partition, "gpu_request": "gres", "mem_gib": 8}
    changes["slurm"] = {**slurm, **changes.get("slurm", {})}
    return {"gpu_name": "H200", "peak_tflops": 989.5, "gpus_per_node": 8, **changes}


class Slurm:
    """Partitions with an hour, or less, to wait."""

    def __init__(self) -> None:
        self.wait_s: dict[str, float] = {}
        self.refuses: dict[str, str] = {}
        self.nodes = "idle|1\n"
        self.away: set[str] = set()
        self.squeue: str | None = ""
        self.asked: list[str] = []

    def ask(self, command: Sequence[str], stdin: str | None = None) -> Answer:
        self.asked.append(shlex.join(command))
        if command[0] == "squeue":
            unable = "slurm_load_jobs error: Unable to contact slurm controller\n"
            return Answer(1, "", unable) if self.squeue is None else Answer(0, self.squeue, "")
        if command[0] == "sinfo":
            partition = self.asked[-1].partition("--partition=")[2].split()[0]
            unable = "slurm_load_partitions: Unable to contact slurm controller\n"
            return Answer(1, "", unable) if partition in self.away else Answer(0, self.nodes, "")
        assert command[:2] == ["sbatch", "--test-only"] and stdin is not None
        partition = command[command.index("-p") + 1]
        if partition in self.refuses:
            return Answer(1, "", f"allocation failure: {self.refuses[partition]}\n")
        start = datetime.now() + timedelta(seconds=self.wait_s.get(partition, 0.0))
        where = f"using 8 processors on nodes a1 in partition {partition}"
        return Answer(0, "", f"sbatch: Job 7 to start at {start:%Y-%m-%dT%H:%M:%S} {where}\n")


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Slurm:
    slurm = Slurm()
    ask_instead(monkeypatch, slurm.ask)
    return slurm


class Written:
    """A study file in a folder of the test's, with one cell that may run on `left` or `right`."""

    def __init__(self, folder: Path) -> None:
        (folder / "guide.csv").write_text(EVIDENCE)
        self.path = folder / "study.yaml"
        self.file = folder / "results" / "test" / "placements.json"
        self.entry: dict[str, Any] = {
            "cluster": {"any": ["left", "right"]},
            "model": "tiny",
            "gpus": 8,
        }
        self.values: dict[str, Any] = {
            "study": "test",
            "results_dir": str(folder / "results"),
            "models": {"tiny": {"dim": 64, "n_layers": 2, "n_heads": 2}},
            "clusters": {name: cluster(name) for name in ("left", "right", "fast")},
            "corpora": ["python_stdlib"],
            "run": {
                "steps": STEPS,
                "data": {"root_dir": "data", "sources": {"python_stdlib": 1.0}},
                "checkpoint": None,
            },
            "grid": [self.entry],
            "evidence": [{"file": str(folder / "guide.csv")}],
        }
        self.values["run"]["data"] |= {"batch_size": 8, "seq_len": 64}

    def grid(self, placing: Any = "record") -> Grid:
        """Return the grid as an invocation of Snakemake does."""
        self.path.write_text(yaml.safe_dump(self.values))
        return load_config([self.path], [], placing)

    def clusters(self, placing: Any = "record") -> list[str]:
        return [cell.cluster for cell in self.grid(placing)]

    def plan(self) -> str:
        return format_placements(load_grid_file(str(self.path)))

    def on(self, name: str) -> Cell:
        """Return the cell as a grid without a choice has it."""
        values, self.values = (
            self.values,
            {**self.values, "grid": [{**self.entry, "cluster": name}]},
        )
        (cell,) = self.grid()
        self.values = values
        return cell


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_of_equal_clusters_it_is_the_one_with_the_shorter_queue(
    written: Written, slurm: Slurm
) -> None:
    slurm.wait_s["left"] = 7200
    assert written.clusters() == ["right"]
    line = written.plan()
    assert line.startswith("right/tiny/gpus-8/base/seed-42: on right, of left (time ~1 h, wait ~2 ")
    assert "right (time ~1 h, wait none); chosen 20" in line
    (kept,) = json.loads(written.file.read_text()).values()
    assert kept["cluster"] == "right"
    # 10 s with the first step, then 3,600 steps of a second.
    assert kept["prospects"]["left"]["seconds"] == pytest.approx(3610, rel=1e-3)
    assert kept["prospects"]["left"]["wait_s"] == pytest.approx(7200, abs=2)


def test_a_faster_cluster_is_worth_a_wait(written: Written, slurm: Slurm) -> None:
    """370 s after 3,000 s end before 3,610 s, and not after 3,400 s."""
    written.entry["cluster"] = {"any": ["left", "fast"]}
    for wait_s, expected in ((3000, "fast"), (3400, "left")):
        slurm.wait_s["fast"] = wait_s
        assert written.clusters("show") == [expected]


def test_of_equals_it_is_the_first_in_the_file(written: Written, slurm: Slurm) -> None:
    assert written.clusters("show") == ["left"]
    written.entry["cluster"] = {"any": ["right", "left"]}
    assert written.clusters("show") == ["right"]


def test_the_cells_of_a_study_count_as_a_queue(written: Written, slurm: Slurm) -> None:
    """One node each, and cells of an hour that take a whole one; `left` has a fixed one before."""
    written.entry["seed"] = [1, 2, 3, 4]
    written.values["grid"] = [{**written.entry, "cluster": "left", "seed": 0}, written.entry]
    assert written.clusters() == ["left", "right", "left", "right", "left"]
    waits = [
        tuple(item.prospects[name].wait_s for name in ("left", "right"))
        for item in read_placements(str(written.file.parent)).values()
    ]
    hours = [tuple(round(wait / 3610, 2) for wait in pair) for pair in waits]
    assert hours == [(1, 0), (1, 1), (2, 1), (2, 2)]


def test_two_nodes_have_room_for_two_runs_at_a_time(written: Written, slurm: Slurm) -> None:
    slurm.nodes, slurm.wait_s["right"] = "idle|2\n", 60
    written.entry["seed"] = [1, 2, 3]
    assert written.clusters() == ["left", "left", "right"]


def test_room_beside_other_runs() -> None:
    backlog = Backlog(16)
    assert backlog.start(8, 5.0) == 5.0
    backlog.add(8, 0.0, 100.0)
    backlog.add(4, 0.0, 50.0)
    assert [backlog.start(gpus, 0.0) for gpus in (4, 8, 12, 16)] == [0.0, 50.0, 100.0, 100.0]
    backlog.add(12, 100.0, 10.0)
    assert [backlog.start(gpus, 0.0) for gpus in (4, 8)] == [0.0, 110.0]


def test_on_this_machine_there_is_no_wait_but_for_the_studys_own_runs(
    written: Written, slurm: Slurm
) -> None:
    here = {"device": "cuda", "gpu_name": "H200", "peak_tflops": 989.5, "gpus_per_node": 8}
    written.values["clusters"]["here"] = here
    written.path.with_name("guide.csv").write_text(EVIDENCE + "here,tiny,8,1000,10\n")
    written.entry |= {"cluster": {"any": ["left", "here"]}, "seed": [1, 2]}
    slurm.wait_s["left"] = 600
    assert written.clusters() == ["here", "left"]


@pytest.mark.parametrize("what", ["measured", "begun", "starting", "queued", "not listed"])
def test_what_is_measured_or_under_way_stays_where_it_is(
    written: Written, slurm: Slurm, what: str
) -> None:
    cell = written.on("left")
    slurm.wait_s["left"] = 7200
    if what in ("queued", "not listed"):
        logs = Path(cell.folder, "slurm_logs")
        logs.mkdir(parents=True)
        (logs / "12.log").touch()
        (logs / "9.log").touch()
        jobs = "9|FAILED|0:09|30:00|None|x|c\n12|PENDING|0:00|30:00|Priority|x|c\n"
        slurm.squeue = jobs if what == "queued" else None  # squeue does not answer
    else:
        changes = {
            "measured": {},
            "begun": {"status": "preempted", "steps_done": 1},
            "starting": {"status": "running", "steps_done": 0},
        }[what]
        write_run(cell, **changes)
    assert written.clusters() == ["left"]
    told = {
        "measured": "measured there",
        "begun": "its run has begun there",
        "starting": "its run has begun there",
        "queued": "in the queue there, Slurm job 12",
        "not listed": "in the queue there, Slurm job 12",
    }[what]
    assert f": on left, {told} (chosen 20" in written.plan()
    assert not any("-p right" in command for command in slurm.asked)


@pytest.mark.parametrize("what", ["measured", "queued", "to run"])
def test_only_cells_that_are_to_run_count_as_a_queue(
    written: Written, slurm: Slurm, what: str
) -> None:
    """Of two seeds the first stays on the first cluster; Slurm itself counts what is queued."""
    cell = written.on("left")
    written.entry["seed"] = [cell.seed, cell.seed + 1]
    if what == "measured":
        write_run(cell)
    elif what == "queued":
        logs = Path(cell.folder, "slurm_logs")
        logs.mkdir(parents=True)
        (logs / "12.log").touch()
        slurm.squeue = "12|PENDING|0:00|30:00|Priority|x|c\n"
    assert written.clusters() == ["left", "right" if what == "to run" else "left"]


def test_a_cell_that_is_not_to_be_measured_is_no_queue(written: Written, slurm: Slurm) -> None:
    first = {**written.entry, "cluster": "left", "seed": 1, "measure": False}
    written.values["grid"] = [first, {**written.entry, "seed": 2}]
    assert written.clusters() == ["left", "left"]


@pytest.mark.parametrize("listed", ["", "12|FAILED|0:09|30:00|None|x|c\n"])
def test_a_job_that_has_ended_holds_its_cell_nowhere(
    written: Written, slurm: Slurm, listed: str
) -> None:
    logs = Path(written.on("left").folder, "slurm_logs")
    logs.mkdir(parents=True)
    (logs / "12.log").touch()
    slurm.squeue, slurm.wait_s["left"] = listed, 7200
    assert written.clusters() == ["right"]


def test_a_run_of_other_settings_does_not_count(written: Written, slurm: Slurm) -> None:
    write_run(written.on("left"))
    written.values["run"]["optim"] = {"lr": 1e-4}
    slurm.wait_s["left"] = 7200
    assert written.clusters() == ["right"]


def test_a_choice_is_made_once_and_read_by_all(written: Written, slurm: Slurm) -> None:
    slurm.wait_s["left"] = 7200
    assert written.clusters("show") == ["right"] and not written.file.exists()
    with pytest.raises(
        SystemExit, match=r"placements\.json: 1 problem\n  no cluster for left\|right/"
    ):
        written.clusters("refuse")
    first = written.grid()
    content = written.file.read_text()
    slurm.wait_s = {"right": 7200}
    slurm.asked.clear()
    for placing in ("record", "show", "refuse"):
        assert list(written.grid(placing)) == list(first)
    assert written.file.read_text() == content and slurm.asked == []


def test_the_study_written_out_has_the_choices(written: Written, slurm: Slurm) -> None:
    """Also without the folder of its results, as evidence for another study."""
    slurm.wait_s["left"] = 7200
    written.entry |= {"seed": [1, 2], "sweep": {"optim.lr": [1e-3, 2e-3]}}
    grid = written.grid()
    assert {cell.cluster for cell in grid} == {"left", "right"}
    snapshot = written.file.with_name("study.yaml")
    snapshot.write_text(grid.study.to_yaml())
    written.file.unlink()
    again = load_grid_file(str(snapshot))
    assert list(again) == list(grid) and again.study.to_yaml() == grid.study.to_yaml()
    assert format_placements(again).count(", by `placements` of the study.\n") == 4


def test_new_cells_are_placed_and_others_stay(written: Written, slurm: Slurm) -> None:
    slurm.wait_s["left"] = 7200
    assert written.clusters() == ["right"]
    slurm.wait_s = {"right": 7200}
    written.entry["seed"] = [1, 42]
    assert written.clusters() == ["left", "right"]


def test_of_two_invocations_the_first_decides(tmp_path: Path) -> None:
    folder, left, right = str(tmp_path / "new"), Placement(cluster="l"), Placement(cluster="r")
    assert record_placements(folder, {"a": left}, {}) == {"a": left}
    assert record_placements(folder, {"a": right, "b": right}, {}) == {"a": left, "b": right}
    assert record_placements(folder, {"a": right}, {"a": left}) == {"a": right, "b": right}
    assert record_placements(folder, {"a": left}, {"a": left}) == {"a": right, "b": right}
    with ThreadPoolExecutor(8) as pool:
        made = [{str(number): left} for number in range(40)]
        list(pool.map(lambda one: record_placements(folder, one, {}), made))
    assert len(read_placements(folder)) == 42


@pytest.mark.parametrize("change", ["where", "gpus"])
def test_a_cell_that_may_no_longer_run_where_it_was_placed_is_placed_again(
    written: Written, slurm: Slurm, change: str
) -> None:
    assert written.clusters() == ["left"]
    if change == "where":
        written.entry["where"] = 'cluster != "left"'
    else:
        written.values["clusters"]["left"]["gpus_per_node"] = 4
    assert written.clusters() == ["right"] == written.clusters("refuse")
    (kept,) = read_placements(str(written.file.parent)).values()
    assert kept.cluster == "right" and kept.prospects["left"].impossible


def test_place_again(
    written: Written, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What has been measured stays, and what was known when its cluster was chosen."""
    written.entry["seed"] = [1, 2]
    slurm.wait_s["left"] = 3 * 3600
    first, second = written.grid()
    assert (first.cluster, second.cluster) == ("right", "right")
    write_run(first)
    before = read_placements(str(written.file.parent))
    slurm.wait_s = {"right": 3 * 3600}
    monkeypatch.chdir(tmp_path)
    assert main(["place", "--study", str(written.path)]) == 0
    assert read_placements(str(written.file.parent)) == before

    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    (tmp_path / ".snakemake" / "locks" / "0.input.lock").touch()
    assert main(["place", "--study", str(written.path), "--again"]) == 1
    assert "found a running Snakemake" in capsys.readouterr().err
    assert read_placements(str(written.file.parent)) == before

    (tmp_path / ".snakemake" / "locks" / "0.input.lock").unlink()
    assert main(["place", "--study", str(written.path), "--again"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("right/tiny/gpus-8/base/seed-1: on right, of left (time ~1 h, wai")
    assert printed[1].startswith(
        "left/tiny/gpus-8/base/seed-2: on left, of left (time ~1 h, wait n"
    )
    keys = [f"left|right/tiny/gpus-8/base/seed-{seed}" for seed in (1, 2)]
    after = read_placements(str(written.file.parent))
    assert after[keys[0]] == before[keys[0]] and after[keys[1]].cluster == "left"


def test_a_cell_moves_to_where_it_was_measured(
    written: Written, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run was made on the other cluster by hand, after the choice."""
    assert written.clusters() == ["left"]
    write_run(written.on("right"))
    monkeypatch.chdir(tmp_path)
    written.grid("refuse")  # writes the study file again
    assert main(["place", "--study", str(written.path), "--again"]) == 0
    (kept,) = read_placements(str(written.file.parent)).values()
    assert (kept.cluster, kept.because) == ("right", "measured there")


def test_a_cluster_on_which_a_cell_cannot_run_is_left_out(written: Written, slurm: Slurm) -> None:
    clusters = written.values["clusters"]
    clusters["right"]["gpus_per_node"] = 4
    clusters["fast"]["memory_gib"] = 0.25
    clusters["full"] = cluster("full")
    slurm.refuses["full"] = "Requested time limit is invalid (missing or exceeds some limit)"
    slurm.wait_s["left"] = 7200
    written.entry |= {"cluster": {"any": ["right", "fast", "full", "left"]}}
    assert written.clusters() == ["left"]
    line = written.plan()
    assert "right (found 8 GPUs; a run on cluster 'right' can have at most 4)" in line
    assert re.search(r"fast \(does not fit: [\d.]+ GiB of 0.25 a GPU\)", line)
    assert "full (Slurm refuses the job: allocation failure: Requested time limit is" in line


def test_where_may_leave_clusters_out(written: Written, slurm: Slurm) -> None:
    slurm.wait_s["right"] = 7200
    written.entry |= {"where": 'cluster == "right" and gpus < 16', "gpus": [8, 16]}
    assert written.clusters() == ["right"]
    assert "left (left out by `where`)" in written.plan()


@pytest.mark.parametrize("why", ["gpus", "memory"])
def test_a_cell_that_can_run_nowhere_is_a_mistake(written: Written, slurm: Slurm, why: str) -> None:
    if why == "gpus":
        written.entry["gpus"] = 16
    else:
        for name in ("left", "right"):
            written.values["clusters"][name]["memory_gib"] = 0.25
    with pytest.raises(SystemExit) as caught:
        written.grid()
    told = str(caught.value)
    assert told.startswith(f"{written.path}: 1 problem\n  line ")
    line = int(re.findall(r"line (\d+):", told)[0])
    assert "cluster:" in written.path.read_text().splitlines()[line - 1]
    assert (
        f"grid[0].cluster: left|right/tiny/gpus-{written.entry['gpus']}/base/seed-42 can run"
        in told
    )
    reason = {"gpus": "can have at most 8", "memory": "does not fit"}[why]
    assert told.count(reason) == 2 and not written.file.exists()


def test_a_slurm_that_cannot_be_asked(written: Written, slurm: Slurm) -> None:
    """Of two clusters the estimate decides: an unknown wait counts as the longest known one."""
    slurm.away = {"right"}
    slurm.wait_s["left"] = 7200
    assert written.clusters("show") == ["left"]  # the first of equals
    written.entry["cluster"] = {"any": ["right", "left"]}
    assert written.clusters("show") == ["right"]
    assert not any("-p right" in command for command in slurm.asked)
    written.entry["cluster"] = {"any": ["right", "left", "fast"]}
    slurm.wait_s["fast"] = 7200
    assert written.clusters("record") == ["fast"]
    assert "right (time ~1 h, wait not known: Slurm cannot be asked from here)" in written.plan()


def test_a_time_that_is_not_known_is_longer_than_any(written: Written, slurm: Slurm) -> None:
    written.values["clusters"]["new"] = cluster("new", peak_tflops=None)
    written.entry["cluster"] = {"any": ["new", "left"]}
    slurm.wait_s["left"] = 7200
    assert written.clusters() == ["left"]
    assert "new (time not known, wait none: no measurement on new yet" in written.plan()


def test_settings_are_those_of_the_chosen_cluster(written: Written, slurm: Slurm) -> None:
    written.values["clusters_run"] = {"right": {"data": {"batch_size": 2}}}
    written.values["run"]["optim"] = {"lr": "1e-3 * data.batch_size * nodes"}
    written.values["clusters"]["right"] |= cluster("right", gpus_per_node=4, slurm={"max_nodes": 2})
    slurm.nodes = "idle|2\n"
    slurm.wait_s["left"] = 1e6
    (cell,) = written.grid()
    assert (cell.cluster, cell.run.data.batch_size, cell.nodes) == ("right", 2, 2)
    assert cell.run.optim.lr == pytest.approx(4e-3)
    assert cell.folder.endswith("results/test/runs/right/tiny/gpus-8/base/seed-42")
    assert cell.fingerprint == written.on("right").fingerprint


def test_a_branch_runs_where_its_trunk_does(written: Written, slurm: Slurm) -> None:
    stable = {"steps": 40, "checkpoint": {"dump": {"every": 8, "keep": 0}}}
    written.values["variants"] = {"stable": stable, "decay": {}}
    branch = {"variant": "decay", "steps": 60, "from": {"cell": "stable", "at": "100%"}}
    written.values["grid"] = [{**written.entry, **branch}, {**written.entry, "variant": "stable"}]
    slurm.wait_s["left"] = 7200
    decay, trunk = written.grid()
    assert (decay.cluster, trunk.cluster, decay.trunk) == ("right", "right", trunk.folder)
    assert list(read_placements(str(written.file.parent))) == [
        "left|right/tiny/gpus-8/stable/seed-42"
    ]
    assert list(written.grid("refuse")) == [decay, trunk]


@pytest.mark.parametrize(
    "other", [{"cluster": "right"}, {"cluster": {"any": ["fast", "right"]}}, {}]
)
def test_a_cell_that_may_be_another_is_a_duplicate_wherever_it_goes(
    written: Written, slurm: Slurm, other: dict[str, Any]
) -> None:
    written.values["grid"] = [written.entry, {**written.entry, **other}]
    with pytest.raises(SystemExit) as caught:
        written.grid()
    name = f"{'right' if other else 'left'}/tiny/gpus-8/base/seed-42"
    assert f"grid[1]: duplicate cell {name}, already in grid[0]" in str(caught.value)


def test_a_study_may_state_its_placements(written: Written, slurm: Slurm) -> None:
    key = "left|right/tiny/gpus-8/base/seed-42"
    slurm.wait_s["right"] = 7200
    written.values["placements"] = {key: "right"}
    assert written.clusters() == ["right"] and not written.file.exists()
    for stated, told in (
        ({key: "fast"}, "found 'fast'; expected left or right"),
        (
            {key.replace("42", "43"): "left"},
            f"no cell with several clusters; did you mean '{key}'?",
        ),
    ):
        written.values["placements"] = stated
        with pytest.raises(SystemExit) as caught:
            written.grid()
        (name,) = stated
        assert f"placements.{name}: {told}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "found []; expected a JSON object, cell -> placement"),
        ("{", "cannot be read: "),
        ('{"a": 1}', "a: found 1; expected an object"),
        ('{"a": {"decided": ""}}', "cluster: missing"),
        (
            '{"a": {"cluster": "b", "prospects": {"b": {"wait_s": -1}}}}',
            "prospects.b.wait_s: found -1",
        ),
    ],
)
def test_a_file_of_placements_that_is_malformed(
    written: Written, slurm: Slurm, content: str, told: str
) -> None:
    written.file.parent.mkdir(parents=True)
    written.file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_placements(str(written.file.parent))
    assert str(caught.value).startswith(str(written.file)) and told in str(caught.value)
    with pytest.raises(SystemExit, match=re.escape(str(written.file))):
        written.grid()
    assert written.file.read_text() == content


@pytest.mark.parametrize(
    ("cluster", "expected"), [("right", "right"), ("fast", "left"), ("gone", "left")]
)
def test_a_choice_that_was_edited_by_hand(
    written: Written, slurm: Slurm, cluster: str, expected: str
) -> None:
    """It counts if the cell may run there; entries of cells that are not in the grid stay."""
    assert written.clusters() == ["left"]
    entries = json.loads(written.file.read_text())
    (key,) = entries
    entries |= {key: {"cluster": cluster, "mine": 7}, "other": {"cluster": "gone"}}
    written.file.write_text(json.dumps(entries))
    assert written.clusters() == [expected] == written.clusters("refuse")
    found = read_placements(str(written.file.parent))
    assert (found[key].cluster, found["other"].cluster) == (expected, "gone")
    assert f"on {expected}, " in written.plan()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigError, match=r"file/placements\.json: 1 problem\n  cannot be written: "
    ):
        record_placements(str(tmp_path / "file"), {"a": Placement(cluster="l")}, {})


def test_without_a_choice_to_make_nothing_is_asked(written: Written, slurm: Slurm) -> None:
    (cell,) = [written.on("left")]
    assert cell.placement is None and slurm.asked == []
    assert not written.file.exists()
    written.values["grid"] = [{**written.entry, "cluster": "left"}]
    assert "placements" not in written.grid().study.to_yaml()
    assert written.plan() == ""


def test_nodes_in_service_are_counted(slurm: Slurm) -> None:
    slurm.nodes = "CLUSTER: trial\nidle|4\nmixed-|2\nallocated*|1\ndown*|8\ndrained|16\nidle~|32\n"
    slurm.nodes += "completing|64\nplanned|128\nreserved|256\npowering_up|512\npowered_down|1024\n"
    slurm.nodes += "maint|2048\n"
    assert count_nodes("left", "trial") == 4 + 2 + 1 + 32 + 64 + 128 + 256 + 512 + 1024
    assert slurm.asked == ["sinfo -M trial --partition=left --noheader '--format=%T|%D'"]
    slurm.away = {"left"}
    assert count_nodes("left", None) is None


def test_a_wait_over_the_change_to_summer_time(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Berlin clocks went from 2:00 to 3:00 on 29 March 2026: from 1:00 to 6:00 took 4 hours."""
    said = "sbatch: Job 7 to start at 2026-03-29T06:00:00 using 8 processors on nodes n1\n"
    answering(monkeypatch, Answer(0, "", said))
    began = datetime(2026, 3, 29, 0, 0, tzinfo=UTC).timestamp()
    monkeypatch.setattr(time, "time", lambda: began)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        waits_s, clock = find_start(["-p", "left"], "left", None).wait_s, time_in(4 * 3600)
    time.tzset()
    assert (waits_s, f"{clock:%H:%M}") == (4 * 3600, "06:00")


def test_a_start_that_slurm_does_not_tell(slurm: Slurm) -> None:
    slurm.refuses["left"] = "Requested nodes are busy"
    found = find_start(["-p", "left"], "left", None)
    assert (found.wait_s, found.refusal) == (None, "")
    slurm.wait_s["right"] = -5  # the clock went on
    assert find_start(["-p", "right"], "right", None).wait_s == 0
