import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.grid import Grid
from study.load import load_grid, load_study, load_study_file
from study.points import short_names
from tests.study.grids import GRID_STUDY, problems
from trainer.layers import Layer, Merged
from trainer.problems import ConfigError
from trainer.settings import validate
from trainer.yaml_files import load_yaml, parse_yaml


@pytest.fixture
def study() -> dict[str, Any]:
    return parse_yaml(GRID_STUDY, "study.yaml")


def test_short_names_have_what_differs(study: dict[str, Any]) -> None:
    grid = Grid(load_study(study))
    assert short_names(cell.labels for cell in grid) == [
        "tiny/gpus-1", "tiny/gpus-2", "wide/gpus-1", "wide/gpus-2",
    ]  # fmt: skip
    assert short_names([grid[0].labels]) == ["here/tiny/gpus-1/base/seed-42"]
    assert short_names([]) == []


def test_each_cell_has_its_own_folder_of_checkpoints(study: dict[str, Any]) -> None:
    """Below the one that the study or a variant names; no fingerprint depends on it."""
    study["grid"][0]["variant"] = ["base", "hot"]
    study["run"]["checkpoint"] = {"path": "/elsewhere"}
    elsewhere = [cell.fingerprint for cell in Grid(load_study(study))]
    study["run"]["checkpoint"] = {"path": "/scratch/ada"}
    study["variants"]["hot"]["checkpoint"] = {"path": "/fast"}
    grid = Grid(load_study(study))
    paths = [cell.run.checkpoint.path for cell in grid]
    assert paths[0] == "/scratch/ada/test/runs/here/tiny/gpus-1/base/seed-42"
    assert paths[1] == "/fast/test/runs/here/tiny/gpus-1/hot/seed-42"
    assert len(set(paths)) == len(grid) == 8
    assert [cell.fingerprint for cell in grid] == elsewhere


def test_runs_of_a_study_may_continue_another(study: dict[str, Any]) -> None:
    """It is part of what a run is; a study without it has the fingerprints it had."""
    base = Grid(load_study(study))[0]
    study["variants"]["branch"] = {"checkpoint": {"continue_from": "runs/trunk"}, "steps": 30}
    study["grid"].append({"cluster": "here", "model": "tiny", "gpus": 1, "variant": "branch"})
    grid = Grid(load_study(study))
    assert grid[0].fingerprint == base.fingerprint
    assert grid[-1].run.checkpoint.continue_from == "runs/trunk"
    study["variants"]["branch"]["checkpoint"]["continue_from"] = "runs/other"
    other = Grid(load_study(study))[-1]
    assert other.fingerprint != grid[-1].fingerprint
    assert other.run.trajectory(1) != grid[-1].run.trajectory(1)


def test_cells_are_the_product_of_the_axes(study: dict[str, Any]) -> None:
    study["grid"].append({"cluster": "here", "model": "tiny", "gpus": 1, "seed": [1, 2]})
    study["grid"].append({"cluster": "here", "model": "wide", "gpus": 4, "variant": "hot"})
    grid = Grid(load_study(study))
    assert [cell.name for cell in grid] == [
        "here/tiny/gpus-1/base/seed-42",
        "here/tiny/gpus-2/base/seed-42",
        "here/wide/gpus-1/base/seed-42",
        "here/wide/gpus-2/base/seed-42",
        "here/tiny/gpus-1/base/seed-1",
        "here/tiny/gpus-1/base/seed-2",
        "here/wide/gpus-4/hot/seed-42",
    ]
    hot = grid[-1]
    assert hot.run.optim.lr == 1e-2
    assert hot.run.model.dim == 128
    assert hot.folder == "results/test/runs/here/wide/gpus-4/hot/seed-42"


def test_weak_scaling_keeps_the_batch_of_a_gpu(study: dict[str, Any]) -> None:
    study["grid"] = [{"cluster": "here", "model": "tiny", "gpus": [1, 2, 4]}]
    grid = Grid(load_study(study))
    assert [cell.run.data.batch_size for cell in grid] == [8, 8, 8]
    assert [cell.tokens_per_step for cell in grid] == [512, 1024, 2048]


@given(st.integers(1, 64), st.sampled_from([1, 2, 3, 4]), st.integers(1, 16))
def test_strong_scaling_keeps_the_global_batch(total: int, gpus: int, batch: int) -> None:
    data = parse_yaml(GRID_STUDY, "study.yaml")
    data["run"]["data"]["batch_size"] = batch
    entry = {"cluster": "here", "model": "tiny", "gpus": gpus, "global_batch_size": total}
    data["grid"] = [entry]
    if total % gpus:
        (problem,) = problems(data)
        assert problem.startswith("grid[0].global_batch_size: ")
        return
    (cell,) = Grid(load_study(data))
    assert cell.tokens_per_step == total * 64
    assert cell.run.data.batch_size <= batch


def test_a_batch_size_with_an_exponent_is_split_too(study: dict[str, Any]) -> None:
    study["run"]["data"]["batch_size"] = parse_yaml("size: 1e1", "study.yaml")["size"]
    study["grid"] = [{"cluster": "here", "model": "tiny", "gpus": 2, "global_batch_size": 32}]
    (cell,) = Grid(load_study(study))
    assert (cell.run.data.batch_size, cell.run.grad_acc_steps) == (8, 2)


@pytest.mark.parametrize("data", ["{batch_size: [8]}", "{batch_size: 0}", "5", "null"])
def test_an_invalid_batch_is_reported_and_not_split(study: dict[str, Any], data: str) -> None:
    study["variants"]["v"] = parse_yaml(f"data: {data}", "study.yaml")
    entry = {"cluster": "here", "model": "tiny", "gpus": 2, "global_batch_size": 32, "variant": "v"}
    study["grid"] = [entry]
    assert problems(study)[0].startswith("variants.v.data")


def test_a_study_written_out_expands_to_the_same_grid(study: dict[str, Any]) -> None:
    first = load_study(study)
    again = load_study(parse_yaml(first.to_yaml(), "again.yaml"))
    assert list(Grid(first)) == list(Grid(again))


def test_a_change_of_one_model_changes_only_its_cells(study: dict[str, Any]) -> None:
    before = Grid(load_study(study))
    changed = copy.deepcopy(study)
    changed["models"]["wide"]["n_layers"] = 3
    after = Grid(load_study(changed))
    moved = [
        a.model for a, b in zip(before, after, strict=True) if a.run.to_yaml() != b.run.to_yaml()
    ]
    assert moved == ["wide", "wide"]


def test_every_mistake_in_the_grid_is_reported(study: dict[str, Any]) -> None:
    study["run"]["optim"] = {"warmup": 21}
    study["run"]["seed"] = 3
    study["variants"]["bad"] = {"optim": {"lrr": 1}}
    study["grid"] += [
        {"cluster": "here", "model": "tinny", "gpus": 1},
        {"cluster": "here", "model": "tiny", "gpus": 1},
        {"cluster": "here", "model": "tiny", "gpus": 5},
        {"cluster": "here", "model": "tiny", "gpus": 1, "variant": "bad"},
        {"cluster": "there", "model": "tiny", "gpus": 1},
    ]
    assert problems(study) == [
        "run.seed: cannot be set here; seeds are an axis of the grid",
        "grid[1].model: unknown model 'tinny'; did you mean 'tiny'?",
        "grid[5].cluster: unknown cluster 'there'; did you mean 'here'?",
        "run.optim.warmup = 21 is more than steps = 20",
        "grid[2]: duplicate cell here/tiny/gpus-1/base/seed-42, already in grid[0]; remove it or "
        "give it its own variant",
        "grid[3].gpus: found 5 GPUs; a run on cluster 'here' can have at most 4",
        "variants.bad.optim.lrr: unknown key; did you mean 'lr'?",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"grid": [{"cluster": "here", "modle": "tiny", "gpus": 1}]}, "grid[0].modle: unknown key"),
        ({"grid": [{"cluster": "here", "model": "tiny", "gpus": 0}]}, "grid[0].gpus[0]: found 0"),
        ({"gird": []}, "gird: unknown key; did you mean 'grid'?"),
        ({"study": "a/b"}, "study: found 'a/b'"),
        ({"corpora": []}, "run.data.sources.python_stdlib: the folder data/python_stdlib does not"),
        ({"corpora": ["python"]}, "corpora: unknown corpus 'python'"),
        (
            {"models": {"tiny": {"dim": 64, "n_layers": 2, "n_heads": 7}}},
            "models.tiny.n_heads = 7",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_key(
    study: dict[str, Any], change: dict[str, Any], expected: str
) -> None:
    assert any(line.startswith(expected) for line in problems({**study, **change}))


def test_problems_in_other_files_are_reported_under_their_names(
    study: dict[str, Any], tmp_path: Path
) -> None:
    ladder = tmp_path / "models.yaml"
    ladder.write_text("tiny: {dim: 64, n_layers: 2, n_heads: 7}\nwide: {dim: 128, n_layer: 2}\n")
    study["models"] = str(ladder)
    study["gird"] = 1
    with pytest.raises(ConfigError) as caught:
        load_study(study, "study.yaml")
    text = str(caught.value)
    assert (
        f"{ladder}: 4 problems\n  line 1: tiny.n_heads = 7 does not divide dim = 64; try 8" in text
    )
    assert "  line 2: wide.n_layer: unknown key; did you mean 'n_layers'?" in text
    assert "study.yaml: 1 problem\n  gird: unknown key; did you mean 'grid'?" in text


@pytest.mark.parametrize(("gpus", "tp_size"), [(2, 2), (4, 2), (4, 4)])
def test_a_global_batch_is_the_asked_one_with_tensor_parallelism(
    study: dict[str, Any], gpus: int, tp_size: int
) -> None:
    """The GPUs of a tensor-parallel group share their sequences."""
    study["variants"]["tp"] = {"distributed": {"tp_size": tp_size}}
    entry = {"cluster": "here", "model": "wide", "gpus": gpus, "variant": "tp"}
    study["grid"] = [{**entry, "global_batch_size": 64}]
    (cell,) = Grid(load_study(study))
    assert cell.run.sequences_per_step(gpus) == 64
    assert cell.tokens_per_step == 64 * 64


def test_a_global_batch_that_tensor_parallel_groups_cannot_share_is_refused(
    study: dict[str, Any],
) -> None:
    study["variants"]["tp"] = {"distributed": {"tp_size": 2}}
    entry = {"cluster": "here", "model": "tiny", "gpus": 4, "variant": "tp"}
    study["grid"] = [{**entry, "global_batch_size": 33}]
    (problem,) = problems(study)
    assert "33 sequences cannot be split over 2 groups of 2 tensor-parallel GPUs" in problem


def test_a_run_config_of_a_cell_is_complete() -> None:
    from trainer.config import RunConfig

    for cell in Grid(load_study_file("config/studies/lingua.yaml")):
        again = validate(RunConfig, parse_yaml(cell.run.to_yaml(), "run.yaml"), "run.yaml")
        assert again == cell.run


def test_yaml_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    """YAML reads 3e-4, without a decimal point, as a string."""
    path = tmp_path / "study.yaml"
    path.write_text(GRID_STUDY.replace("steps: 20", "steps: 20\n  optim: {lr: 3e-4}"))
    (cell, *_) = Grid(load_study(load_yaml(path), str(path)))
    assert cell.run.optim.lr == 3e-4


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"run": {"checkpoint": {"path": "/scratch"}}},
        {"run": {"optim": {"lr": "1e-3 * seed + gpus"}}},
        {"grid": {"global_batch_size": 32}},
        {"grid": {"tokens": "20N", "sweep": {"optim.lr": [1e-3, "gpus / seed"]}}},
    ],
)
def test_runs_validated_together_are_those_validated_alone(
    study: dict[str, Any], change: dict[str, Any]
) -> None:
    """As a folder, a seed or an expression in one cell's settings is not another's."""
    study["run"] |= change.get("run", {})
    study["grid"][0] |= {"variant": ["base", "hot"], "seed": [1, 2], **change.get("grid", {})}
    together = load_grid(Merged([Layer(study)]), "study.yaml")
    alone = Grid(load_study(study))
    assert len(together) == len(alone) >= 16
    assert [cell.run for cell in together] == [cell.run for cell in alone]
    assert list(together) == list(alone)
