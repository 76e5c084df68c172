"""Three trainers in one study on two ranks: ours, Hugging Face's, and one that does not resume.

In the middle of their runs all three are preempted. When they train again, a rank of Hugging
Face's is killed, and so is the trainer that does not resume.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.grid import Cell, Grid
from study.load import load_study_file
from study.measure.throughput_row import ThroughputRow, read_rows
from tests.slurm.cluster.api import Cluster
from tests.slurm.studies import ROOT, STEPS, SlurmStudy, partition, wait_until

pytestmark = pytest.mark.slurm

NODE = "sphinx2"
OURS, HUGGING_FACE, PLAIN = "ours", "transformers", "plain"
FAULT = "hold:all"
MIDDLE = 8
"""The last step with a record before the runs hold, in step 9; it has a checkpoint too."""

SCRIPT = """\
for step in $(seq 2 2 "$STEPS"); do
  sleep 0.1
  echo "it $step | 1000 tok/s"
  if test "$step" = "$MIDDLE"; then
    echo "$$" > "$FOLDER/plain-held"
    while test -e "$FOLDER/$FAULT-hold"; do sleep 0.1; done
    rm "$FOLDER/plain-held"
  fi
done
"""


class Mixed:
    """The study of three trainers, and what it left behind."""

    def __init__(self, study: SlurmStudy) -> None:
        study.file.write_text(yaml.safe_dump(study.study))
        self.study = study
        self.grid = Grid(load_study_file(str(study.file)))
        self.cells: dict[str, Cell] = {cell.trainer: cell for cell in self.grid}

    def folder(self, trainer: str) -> Path:
        return Path(self.cells[trainer].folder)

    def steps(self, trainer: str) -> list[int]:
        return [record["global_step"] for record in self.study.records_of(self.folder(trainer))]

    def attempts(self, trainer: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.study.summary_of(self.folder(trainer))["attempts"]
        return found

    def ends(self, trainer: str) -> list[str]:
        return [attempt["status"] for attempt in self.attempts(trainer)]

    def held(self, trainer: str) -> dict[int, int]:
        """Return rank -> process on the node, of those that hold."""
        if trainer == PLAIN:
            held = self.study.folder / "plain-held"
            return {0: int(held.read_text() or 0)} if held.exists() else {}
        found = {}
        for path in self.study.folder.glob("held-*"):
            rank, _, arguments = path.read_text().partition(" ")
            if f"{self.folder(trainer)}/" in arguments:
                found[int(rank)] = int(path.name.removeprefix("held-"))
        return found

    def wait_until_held(self, attempt: int, *trainers: str) -> None:
        for trainer in trainers:
            ranks = 1 if trainer == PLAIN else 2
            wait_until(
                lambda trainer=trainer, ranks=ranks: (
                    len(self.held(trainer)) == ranks and len(self.attempts(trainer)) == attempt
                ),
                f"attempt {attempt} of {trainer} holds",
                120,
            )

    def row(self, trainer: str) -> ThroughputRow:
        rows = read_rows(self.study.results / "throughput.csv")
        (found,) = (row for row in rows if row.trainer == trainer)
        return found


@pytest.fixture(scope="module")
def mixed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    study = SlurmStudy(cluster, tmp_path_factory.mktemp("mixed"), "mixed")
    study.hold(FAULT)
    study.add(NODE, partition("sphinx", FAULT, study.folder, nodelist=NODE), gpus=2)
    study.study["grid"][0]["trainer"] = [OURS, HUGGING_FACE, PLAIN]
    study.study["trainers"] = _trainers(study.folder)
    found = Mixed(study)
    process = study.start("throughput")
    try:
        found.wait_until_held(1, OURS, HUGGING_FACE, PLAIN)
        cluster.sbatch(
            *("-A", "nlp", "-p", "sphinx", "--mem=100M", "--time=5", "--qos=high"),
            *(f"--nodelist={NODE}", "--gres=gpu:8"),
            command="true",
        )
        found.wait_until_held(2, HUGGING_FACE, PLAIN)
        for trainer in (HUGGING_FACE, PLAIN):
            cluster.on_node(NODE, "kill", "-KILL", str(max(found.held(trainer).items())[1]))
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
            },
            "log": {
                "format": "regex",
                "patterns": r"it (?P<step>\d+) \| (?P<tokens_per_s>\d+) tok/s",
            },
        },
    }


def test_ours_is_preempted_and_goes_on(mixed: Mixed) -> None:
    assert mixed.ends(OURS) == ["preempted", "completed"]
    assert mixed.attempts(OURS)[1]["first_step"] > MIDDLE


def test_hugging_face_goes_on_after_a_preemption_and_after_a_kill(mixed: Mixed) -> None:
    assert mixed.ends(HUGGING_FACE) == ["preempted", "failed", "completed"]
    # The killed attempt had not saved: the last one goes on from where the second did.
    first = [attempt["first_step"] for attempt in mixed.attempts(HUGGING_FACE)]
    assert first[0] == 1
    assert min(first[1:]) > MIDDLE


def test_the_other_starts_afresh(mixed: Mixed) -> None:
    assert mixed.ends(PLAIN) == ["failed", "failed", "completed"]
    assert [attempt["first_step"] for attempt in mixed.attempts(PLAIN)] == [1, 1, 1]
    kept = [mixed.folder(PLAIN) / "superseded" / number for number in ("1", "2")]
    for folder in kept:
        records = mixed.study.records_of(folder)
        assert records[-1]["global_step"] == MIDDLE


@pytest.mark.parametrize("trainer", [OURS, HUGGING_FACE, PLAIN])
def test_each_step_is_recorded_once(mixed: Mixed, trainer: str) -> None:
    steps = mixed.steps(trainer)
    assert steps == sorted(set(steps))
    assert set(range(2, STEPS + 1, 2)) <= set(steps)


def test_all_are_in_one_table(mixed: Mixed) -> None:
    rows = {trainer: mixed.row(trainer) for trainer in mixed.cells}
    assert {row.status for row in rows.values()} == {"completed"}
    assert {row.gpus for row in rows.values()} == {2}
    assert {name: row.attempts for name, row in rows.items()} == {
        OURS: 2,
        HUGGING_FACE: 3,
        PLAIN: 3,
    }
    assert [row.began_again for row in rows.values()] == [None, None, True]
    assert rows[PLAIN].tokens_per_s == pytest.approx(1000)
    assert rows[HUGGING_FACE].loss_last == pytest.approx(rows[OURS].loss_last, rel=0.1)
    assert (
        "began again from step 1, as plain does not resume"
        in (mixed.study.results / "throughput.md").read_text()
    )
