"""Runs that start from checkpoints of another run of the study."""

import json
import re
from pathlib import Path

from tests.workflow.workspace import Workspace


def test_decays_start_from_checkpoints_of_a_run_that_is_trained_once(tmp_path: Path) -> None:
    """A decay has the losses of a run trained through, bit for bit."""
    workspace = Workspace(tmp_path)
    optim = {"lr": 3e-3, "warmup": 2, "scheduler": "wsd", "decay_fraction": 0.5}
    workspace.study["run"] |= {"optim": optim, "logging": {"freq": 1}}
    workspace.study["variants"] = {
        "stable": {"steps": 16, "checkpoint": {"dump": {"every": 2, "keep": 0}}},
        "decay": {},
        "through": {},
    }
    cells = {"cluster": "here", "model": "one", "gpus": 1}
    start = {"cell": "stable", "at": "steps / 2"}
    workspace.study["grid"] = [
        {**cells, "variant": "decay", "steps": [4, 8, 12], "from": start},
        {**cells, "variant": "through", "steps": [4, 8, 12]},
        {**cells, "variant": "stable"},
    ]
    workspace.write()
    folder = workspace.run_folder("one").parents[1]
    both = [f"{variant}+steps-{steps}" for variant in ("decay", "through") for steps in (4, 8, 12)]
    names = ["stable", *both]
    flags = [str(folder / name / "seed-42" / "completed") for name in names]
    workspace.snakemake("--cores", "1", *flags)

    def losses(name: str) -> list[tuple[int, float]]:
        lines = (folder / name / "seed-42" / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        return [(record["global_step"], record["loss/out"]) for record in records]

    for steps in (4, 8, 12):
        decay = losses(f"decay+steps-{steps}")
        assert [step for step, _ in decay] == list(range(steps // 2 + 1, steps + 1))
        assert decay == losses(f"through+steps-{steps}")[steps // 2 :]
        assert decay != losses("stable")[steps // 2 : steps]
    workspace.study["variants"]["stable"]["optim"] = {"clip": 0.5}
    workspace.write()
    plan = workspace.snakemake("-n", *flags)
    assert set(re.findall(r"runs/here/one/gpus-1/([^/]+)/seed-42/attempt.log", plan)) == {
        *("stable", "decay+steps-4", "decay+steps-8", "decay+steps-12"),
    }
