"""The programs in examples/ that shipped descriptions name."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.transformers_train import main
from study.load import load_grid_file
from study.templates import render_config
from tests.study.trainers.mixed_study import MIXED_STUDY
from trainer.layers import merge
from trainer.yaml_files import dump_yaml, parse_yaml


@pytest.fixture
def own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_seed_of_a_cell_is_that_of_the_weights(tmp_path: Path, own_signals: None) -> None:
    text = tmp_path / "data" / "text"
    text.mkdir(parents=True)
    for part in ("chunk.00", "val"):
        lines = [json.dumps({"text": f"{part} {n} of a text"}) for n in range(500)]
        (text / f"text.{part}.jsonl").write_text("\n".join(lines))
    run = {
        "steps": 2,
        "optim": {"warmup": 1},
        "grad_acc_steps": 1,
        "data": {"root_dir": str(tmp_path / "data"), "seed": 0, "batch_size": 2},
        "distributed": {"model_dtype": "fp32"},
        "logging": {"freq": 1},
        "checkpoint": None,
        "eval": None,
    }
    block = {"cluster": "here", "model": "tiny", "gpus": 1, "trainer": "transformers"}
    values = merge(MIXED_STUDY, {"grid": [block], "corpora": [], "run": run})
    values["run"]["data"]["sources"] = {"text": 1.0}
    losses = []
    for name in ("one", "again"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "study.yaml").write_text(dump_yaml(values | {"results_dir": str(folder)}))
        (cell,) = load_grid_file(str(folder / "study.yaml"))
        home = Path(cell.folder)
        home.mkdir(parents=True)
        (home / "settings.yaml").write_text(cell.run.to_yaml())
        config = parse_yaml(render_config(cell.placed) or "", "config.yaml")
        del config["training"]["ddp_backend"]  # without torchrun
        (home / "config.yaml").write_text(dump_yaml(config))
        main(str(home / "config.yaml"))
        state = json.loads((home / "transformers" / "trainer_state.json").read_text())
        losses.append([entry["loss"] for entry in state["log_history"] if "loss" in entry])
    one, again = losses
    assert len(one) == 2
    assert one == again
