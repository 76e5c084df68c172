"""Three trainers in one study on two ranks: ours, Hugging Face's, and one that does not resume.

In the middle of their runs, those on one node are preempted, and on the other one a rank is killed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.grid import Cell, Grid
from study.load import load_study_file
from study.measure.throughput_row import read_rows
from tests.slurm.cluster.api import Cluster
from tests.slurm.studies import ROOT, STEPS, SlurmStudy, partition, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.long]

KILLED, PREEMPTED = "sphinx1", "sphinx2"
OURS, HUGGING_FACE, PLAIN = "ours", "transformers", "plain"
Where = tuple[str, str]
"""Cluster and trainer of a cell."""

FAULT = "hold:all"
MIDDLE = 8
"""The last step with a record before the runs hold, in step 9; it has a checkpoint too."""

SCRIPT = """\
for step in $(seq 2 2 "$STEPS"); do
  sleep 0.1
  echo "it $step | 1000 tok/s"
  if test "$step" = "$MIDDLE"; then
    echo "0 $RUN" > "$FOLDER/unfinished-$SLURMD_NODENAME-$$"
    mv "$FOLDER/unfinished-$SLURMD_NODENAME-$$" "$FOLDER/held-$SLURMD_NODENAME-$$"
    while test -e "$FOLDER/$FAULT-hold"; do sleep 0.1; done
  fi
done
"""


class Mixed:
    """The study of three trainers, and what it left behind."""

    def __init__(self, study: SlurmStudy) -> None:
        study.file.write_text(yaml.safe_dump(study.study))
        self.study = study
        self.grid = Grid(load_study_file(str(study.file)))
        self.cells: dict[Where, Cell] = {(cell.cluster, cell.trainer): cell for cell in self.grid}

    def folder(self, where: Where) -> Path:
        return Path(self.cells[where].folder)

    def steps(self, where: Where) -> list[int]:
        return [record["global_step"] for record in self.study.records_of(self.folder(where))]

    def attempts(self, where: Where) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.study.summary_of(self.folder(where))["attempts"]
        return found

    def ends(self, where: Where) -> list[str]:
        return [attempt["status"] for attempt in self.attempts(where)]

    def held(self, where: Where) -> dict[int, int]:
        """Return rank -> process on the node, of those that hold."""
        found = {}
        for path in self.study.folder.glob("held-*"):
            rank, _, arguments = path.read_text().partition(" ")
            if str(self.folder(where)) in arguments:
                found[int(rank)] = int(path.name.rpartition("-")[2])
        return found

    def wait_until_held(self, where: Where) -> None:
        ranks = 1 if where[1] == PLAIN else 2
        wait_until(lambda: len(self.held(where)) == ranks, f"{where} holds", 120)


@pytest.fixture(scope="module")
def mixed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    study = SlurmStudy(cluster, tmp_path_factory.mktemp("mixed"), "mixed")
    study.hold(FAULT)
    for node, trainers in ((KILLED, [OURS, HUGGING_FACE]), (PREEMPTED, [HUGGING_FACE])):
        study.add(node, partition("sphinx", FAULT, study.folder, nodelist=node), gpus=2)
        study.study["grid"][-1]["trainer"] = [*trainers, PLAIN]
    study.study["trainers"] = _trainers(study.folder)
    found = Mixed(study)
    process = study.start("throughput")
    try:
        for where in found.cells:
            found.wait_until_held(where)
        cluster.sbatch(
            *("-A", "nlp", "-p", "sphinx", "--mem=100M", "--time=5", "--qos=high"),
            *(f"--nodelist={PREEMPTED}", "--gres=gpu:8"),
            command="true",
        )
        for trainer in (OURS, HUGGING_FACE, PLAIN):
            last_rank = max(found.held((KILLED, trainer)).items())[1]
            cluster.on_node(KILLED, "kill", "-KILL", str(last_rank))
        saved = (
            found.folder((PREEMPTED, HUGGING_FACE)) / "transformers" / f"checkpoint-{MIDDLE + 1}"
        )
        wait_until(saved.exists, "Hugging Face's trainer is told and saves", 60)
        study.release(FAULT)
        assert process.wait(240) == 0, study.log.read_text()
        yield found
    finally:
        process.kill()
        process.wait()
        cluster.run("scancel", "--user=root")


def _trainers(folder: Path) -> dict[str, Any]:
    shipped = yaml.safe_load((ROOT / "config/trainers.yaml").read_text())
    template = str(ROOT / "config" / shipped[HUGGING_FACE]["config"])
    script = folder / "plain.sh"
    script.write_text(SCRIPT)
    return {
        OURS: shipped[OURS],
        HUGGING_FACE: shipped[HUGGING_FACE] | {"config": template},
        PLAIN: {
            "launcher": "none",
            "script": f"bash {script}",
            "environment": {
                "STEPS": "{steps}",
                "MIDDLE": str(MIDDLE),
                "FOLDER": str(folder),
                "FAULT": FAULT,
                "RUN": "{run}",
            },
            "log": {
                "format": "regex",
                "patterns": r"it (?P<step>\d+) \| (?P<tokens_per_s>\d+) tok/s",
            },
        },
    }


@pytest.mark.parametrize("trainer", [OURS, HUGGING_FACE])
def test_a_trainer_that_resumes_goes_on_after_a_kill(mixed: Mixed, trainer: str) -> None:
    where = KILLED, trainer
    assert mixed.ends(where) == ["failed", "completed"]
    assert [attempt["first_step"] for attempt in mixed.attempts(where)] == [1, MIDDLE + 1]
    assert not (mixed.folder(where) / "superseded").exists()


def test_hugging_face_is_preempted_saves_and_goes_on(mixed: Mixed) -> None:
    first, second = mixed.attempts((PREEMPTED, HUGGING_FACE))
    # failed: Python and torchrun took longer to end than Slurm waits, 5 s.
    assert first["status"] in ("preempted", "failed")
    assert second["status"] == "completed"
    assert second["first_step"] >= MIDDLE + 1


@pytest.mark.parametrize("cluster_name", [KILLED, PREEMPTED])
def test_the_other_starts_afresh(mixed: Mixed, cluster_name: str) -> None:
    where = cluster_name, PLAIN
    assert mixed.ends(where) == ["failed", "completed"]
    assert [attempt["first_step"] for attempt in mixed.attempts(where)] == [1, 1]
    (kept,) = (mixed.folder(where) / "superseded").iterdir()
    assert mixed.study.records_of(kept)[-1]["global_step"] == MIDDLE


def test_each_step_is_recorded_once(mixed: Mixed) -> None:
    for where in mixed.cells:
        steps = mixed.steps(where)
        assert steps == sorted(set(steps)), where
        assert steps[-1] == STEPS, where


def test_all_are_in_one_table(mixed: Mixed) -> None:
    rows = {
        (row.cluster, row.trainer): row for row in read_rows(mixed.study.results / "throughput.csv")
    }
    assert rows.keys() == mixed.cells.keys()
    for (_, trainer), row in rows.items():
        assert (row.status, row.gpus, row.attempts) == ("completed", 2, 2)
        assert row.began_again is (True if trainer == PLAIN else None)
        assert row.tokens_per_s is not None
    assert rows[KILLED, PLAIN].tokens_per_s == pytest.approx(1000)
    for where in ((KILLED, HUGGING_FACE), (PREEMPTED, HUGGING_FACE)):
        assert rows[where].loss_last == pytest.approx(rows[KILLED, OURS].loss_last, rel=0.1)
    # The same steps on the same data, whatever ended the first attempt.
    killed, preempted = (rows[node, HUGGING_FACE] for node in (KILLED, PREEMPTED))
    assert killed.loss_last == pytest.approx(preempted.loss_last, rel=1e-3)
    text = (mixed.study.results / "throughput.md").read_text()
    assert "began again from step 1, as plain does not resume" in text
