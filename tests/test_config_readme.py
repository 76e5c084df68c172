"""config/README.md lists every key of a study, with the defaults that the models have."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from study.cluster_config import ClusterConfig
from study.config import Evidence, Study
from study.grid_config import GridEntry
from study.terms import TERMS
from study.trainers import TrainerConfig
from trainer.config import ModelConfig, RunConfig
from trainer.yaml_files import parse_yaml

README = Path(__file__).parents[1] / "config" / "README.md"

SECTIONS: dict[str, tuple[type[BaseModel], set[str]]] = {
    "The study file": (Study, set()),
    "A block of the grid": (GridEntry, set()),
    "Evidence": (Evidence, set()),
    "models.yaml": (ModelConfig, set()),
    "clusters.yaml": (ClusterConfig, {"slurm"}),
    "trainers.yaml": (TrainerConfig, {"config", "version"}),
    "run.yaml": (RunConfig, {"logging.wandb", "checkpoint", "eval"}),
}
"""Heading -> the model whose keys its first table lists, and the groups that have a row too."""

ELSEWHERE = (ModelConfig, GridEntry, Evidence)
"""Models whose keys have a section of their own."""


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the keys of a model, and those of the models in it, dotted."""
    for key, field in model.model_fields.items():
        name = field.alias or key
        inner = next((kind for kind in _kinds(field.annotation) if _is_model(kind)), None)
        if inner is None or inner in ELSEWHERE:
            yield f"{prefix}{name}", field
        else:
            yield from leaves(inner, f"{prefix}{name}.")


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """Return a type, or those of a union; a list or mapping of models is a key by itself."""
    united = getattr(annotation, "__origin__", None) in (list, dict, tuple)
    return (annotation,) if united else (annotation, *get_args(annotation))


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def first_table(heading: str) -> list[list[str]]:
    """Return the cells of the rows of the first table below a heading."""
    text = re.split(rf"^##+ {re.escape(heading)}$", README.read_text(), flags=re.MULTILINE)[1]
    table = re.search(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert table is not None
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.group().splitlines()]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def listed_keys(cell: str) -> list[str]:
    """Return the keys of a table's first cell: `.b` after `x.a` is x.b."""
    keys: list[str] = []
    for word in re.findall(r"`([^`]+)`", cell):
        keys.append(keys[-1].rpartition(".")[0] + word if word.startswith(".") else word)
    return keys


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_tables_list_every_key_and_no_other(heading: str) -> None:
    model, groups = SECTIONS[heading]
    listed = [key for row in first_table(heading) for key in listed_keys(row[0])]
    assert sorted(listed) == sorted([*(key for key, _ in leaves(model)), *groups])


def test_the_defaults_of_run_yaml_are_the_models() -> None:
    """`-` is a required key; one value stands for all keys of its row."""
    fields = dict(leaves(RunConfig))
    for names, defaults, _ in first_table("run.yaml"):
        keys, values = listed_keys(names), defaults.split(", ")
        values *= len(keys) if len(values) == 1 else 1
        assert len(values) == len(keys), names
        for key, value in zip(keys, values, strict=True):
            field = fields.get(key)
            if field is None:  # a group
                continue
            assert field.is_required() == (value == "-"), key
            if value != "-":
                default = field.get_default(call_default_factory=True)
                assert parse_yaml(f"is: {value}", str(README))["is"] == default, key


def test_the_names_in_templates_are_listed() -> None:
    text = README.read_text().split("## trainers.yaml")[1].split("\n## ")[0]
    table = text.split("| names | |")[1]
    listed = {name for line in table.splitlines() for name in listed_keys(line.split(" | ")[0])}
    assert listed == set(TERMS)
