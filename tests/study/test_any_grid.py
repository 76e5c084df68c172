"""Any grid, drawn at random: each cell has its folder, and the study survives a file."""

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from study.axes import name_value
from study.grid import Grid
from study.load import load_study
from tests.study.grids import GRID_STUDY, ONE
from trainer.problems import ConfigError
from trainer.yaml_files import parse_yaml

SWEEPS: dict[str, st.SearchStrategy[Any]] = {
    "model.qk_norm": st.booleans(),
    "model.activation": st.sampled_from(["swiglu", "gelu", "relu2"]),
    "model.rope_scaling": st.none() | st.just({"rope_type": "linear", "factor": 2.0}),
    "optim.lr": st.floats(1e-8, 1.0) | st.sampled_from(["1e-3 * gpus", "1 / dim", "1e-3*gpus"]),
    "optim.clip": st.none() | st.floats(0.1, 10.0),
    "model.n_layers": st.integers(1, 9),
    "data.sources": st.dictionaries(
        st.just("python_stdlib"), st.floats(0.1, 3.0), min_size=1, max_size=1
    ),
    "distributed.compile": st.sampled_from([True, False, "auto"]),
    "optim.scheduler": st.sampled_from(["cosine", "linear", "constant"]),
    "checkpoint.dump.every": st.none() | st.integers(1, 2**40),
    "logging.wandb.notes": st.text("ab c/é:1", max_size=50),
}

CLUSTERS = [["here"], ["there", "here"], [{"any": ["here", "there"]}], [{"any": ["there"]}, "here"]]

LENGTHS = {
    "steps": st.integers(1, 10**12),
    "tokens": st.floats(1, 1e12) | st.sampled_from(["1N", "20N", "1.5B", "3 M"]),
    "flops": st.floats(1e6, 1e20),
}


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    """Return a block of a grid whose lists have no value twice."""

    def distinct(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=1, max_size=3, unique_by=name_value))

    entry: dict[str, Any] = {
        "cluster": draw(st.sampled_from(CLUSTERS)),
        "model": distinct(st.sampled_from(["tiny", "wide"])),
        "gpus": distinct(st.sampled_from([1, 2, 4])),
        "variant": distinct(st.sampled_from(["base", "hot"])),
        "sweep": {
            key: distinct(SWEEPS[key])
            for key in draw(st.lists(st.sampled_from(sorted(SWEEPS)), max_size=2, unique=True))
        },
    }
    for kind in draw(st.lists(st.sampled_from(sorted(LENGTHS)), max_size=1)):
        entry[kind] = distinct(LENGTHS[kind])
    if draw(st.booleans()):
        entry["where"] = draw(st.sampled_from(["gpus < 4", "params > 2e5 or gpus == 1"]))
    if draw(st.booleans()):
        count = max(len(value) for value in (*entry.values(), *entry["sweep"].values())
                    if isinstance(value, list))  # fmt: skip
        entry["paired"] = True
        for values in (entry, entry["sweep"]):
            cut = {k: v if len(v) == count else v[:1] for k, v in values.items() if type(v) is list}
            values |= cut
    return entry


@settings(max_examples=60)
@given(st.lists(entries(), min_size=1, max_size=2), st.randoms(use_true_random=False))
def test_any_grid_has_a_folder_for_each_cell_and_survives_a_file(
    drawn: list[Any], chance: random.Random
) -> None:
    """Names are unique, the order is stable, and the study written out expands to the same grid.

    Whatever is chosen for cells with several clusters changes nothing else of them.
    """
    study = parse_yaml(GRID_STUDY, "study.yaml")
    study["clusters"]["there"] = study["clusters"]["here"]
    study["grid"] = [{**ONE, **entry, "seed": index} for index, entry in enumerate(drawn)]
    try:
        loaded = load_study(study, "study.yaml")
    except ConfigError as error:
        told = [str(problem) for problem in error.problems]
        assert all("excludes every cell" in text for text in told), told
        return
    keys = dict.fromkeys(cell.placement for cell in Grid(loaded) if cell.placement)
    before = [(cell.labels | {"cluster": ""}, cell.fingerprint) for cell in Grid(loaded)]
    chosen = {key: chance.choice(key.partition("/")[0].split("|")) for key in keys}
    loaded = load_study({**study, "placements": chosen}, "study.yaml")
    cells = list(Grid(loaded))
    assert [(cell.labels | {"cluster": ""}, cell.fingerprint) for cell in cells] == before
    assert all(chosen.get(cell.placement or "", cell.cluster) == cell.cluster for cell in cells)
    assert len({cell.folder for cell in cells}) == len(cells)
    assert all(len(part) <= 100 for cell in cells for part in cell.name.split("/"))
    written = load_study(parse_yaml(loaded.to_yaml(), "again.yaml"), "again.yaml")
    assert list(Grid(written)) == cells == list(Grid(loaded))
    blocks = [cell.seed for cell in cells]
    assert blocks == sorted(blocks)
