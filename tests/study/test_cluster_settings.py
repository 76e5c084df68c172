"""clusters_run: the settings of every run on a cluster."""

from pathlib import Path

from study.grid import Grid
from study.jobs.workflow import text_files
from study.load import load_study
from tests.study.grids import GRID_STUDY, ONE, problems
from trainer.yaml_files import parse_yaml


def test_settings_of_a_cluster_lie_between_those_of_run_and_of_variants() -> None:
    study = parse_yaml(GRID_STUDY, "study.yaml")
    study["clusters"]["there"] = {"device": "cpu", "gpu_name": "CPU core", "gpus_per_node": 4}
    study["run"]["optim"] = {"lr": 1e-3, "clip": 0.5, "weight_decay": 0.3}
    study["clusters_run"] = {"there": {"optim": {"lr": 2e-3, "clip": 0.6}, "grad_acc_steps": 2}}
    study["grid"] = [{**ONE, "cluster": ["here", "there"], "variant": ["base", "hot"]}]
    found = [cell.run for cell in Grid(load_study(study))]
    optim = [(run.optim.lr, run.optim.clip, run.optim.weight_decay) for run in found]
    assert optim == [(1e-3, 0.5, 0.3), (1e-2, 0.5, 0.3), (2e-3, 0.6, 0.3), (1e-2, 0.6, 0.3)]
    assert [run.grad_acc_steps for run in found] == [1, 1, 2, 2]


def test_mistakes_in_the_settings_of_a_cluster() -> None:
    study = parse_yaml(GRID_STUDY, "study.yaml")
    study["clusters_run"] = {
        "here": {"seed": 1, "optim": {"lrr": 1, "warmup": 30, "lr": "q * 2"}},
        "heer": {},
    }
    assert [problem.partition(";")[0] for problem in problems(study)] == [
        "clusters_run.here.seed: cannot be set here",
        "clusters_run.heer: unknown cluster 'heer'",
        "clusters_run.here.optim.lr: unknown name 'q'",
        "clusters_run.here.optim.lrr: unknown key",
    ]
    for optim, told in (
        ({"lrr": 1}, "lrr: unknown key; did you mean 'lr'?"),
        ({"warmup": 30}, "warmup = 30 is more than steps = 20"),
    ):
        study["clusters_run"] = {"here": {"optim": optim}}
        assert problems(study) == [f"clusters_run.here.optim.{told}"]


def test_each_cluster_may_have_its_own_folder_of_text(tmp_path: Path) -> None:
    """The text of each is tokenised; a cell waits for its own."""
    for place in ("a", "b"):
        (tmp_path / place / "src").mkdir(parents=True)
        (tmp_path / place / "src" / f"{place}.chunk.0.jsonl").touch()
    study = parse_yaml(GRID_STUDY, "study.yaml")
    study["clusters"]["there"] = {"device": "cpu", "gpu_name": "CPU core", "gpus_per_node": 4}
    study["run"]["data"] |= {"root_dir": f"{tmp_path}/a/", "sources": {"src": 1.0}}
    study["clusters_run"] = {"there": {"data": {"root_dir": f"{tmp_path}/b"}}}
    study["grid"] = [{**ONE, "cluster": ["here", "there"]}, {**ONE, "gpus": 2}]
    made = Grid(load_study(study))
    names = [made.source_names(cell) for cell in made]
    assert names[0] == names[2] == ["src"]
    (other,) = names[1]
    assert other.endswith("/src") and list(made.sources) == ["src", other]
    assert made.data_roots == [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert text_files(made, "src") == [f"{tmp_path}/a/src/a.chunk.0.jsonl"]
    assert text_files(made, other) == [f"{tmp_path}/b/src/b.chunk.0.jsonl"]
