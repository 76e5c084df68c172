"""How values and keys are written in the names of cells."""

from typing import Any

import pytest

from study.axes import name_value, name_variant, short_key
from study.config import Study
from study.points import points
from tests.study.grids import GRID_STUDY, ONE
from trainer.config import RunConfig
from trainer.layers import merge
from trainer.settings import dotted_keys
from trainer.yaml_files import parse_yaml


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *((1e-3, "0.001"), (3e-4, "0.0003"), (4e-5, "4e-5"), (0.0, "0"), (-1.5, "-1.5")),
        *((2000, "2000"), (10**18, "1e18"), (1.5e18, "1.5e18"), (1234567, "1234567"), (1e6, "1e6")),
        *((True, "true"), (None, "null"), ("swiglu", "swiglu"), ("20N", "20N"), ("2 B", "2B")),
    ],
)
def test_values_in_names(value: Any, name: str) -> None:
    assert name_value(value) == name


def test_names_of_keys_are_short_and_unique() -> None:
    names = {key: short_key(key) for key in dotted_keys(RunConfig)}
    assert len(set(names.values())) == len(names)
    assert names["optim.lr"] == "lr"
    assert names["model.n_layers"] == "n_layers"
    assert (names["data.seed"], names["model.seed"]) == ("data.seed", "model.seed")
    assert names["checkpoint.dump.every"] == "dump.every"
    assert short_key("data.sources.web") == "web"


def test_the_name_of_many_values_is_cut_and_stays_unique() -> None:
    sweep = {f"data.sources.text-number-{i}": [0.25, 0.75] for i in range(7)}
    sources = {f"text-number-{i}": 1.0 for i in range(7)}
    study = merge(parse_yaml(GRID_STUDY, "study.yaml"), {"run": {"data": {"sources": sources}}})
    study["grid"] = [{**ONE, "sweep": sweep}]
    cells = points(Study.model_validate(study))
    made = [name_variant("base", point.choices) for point in cells]
    assert len(set(made)) == 128
    assert max(map(len, made)) == 100
    assert name_variant("v" * 100, []) == "v" * 100
