"""JSON Schemas of the files under config/, generated from the models, for completion in editors."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from study.config import Study
from study.grid_config import LENGTHS
from study.load import ENTRIES, TABLES
from study.points import AXES
from trainer.config import RunConfig
from trainer.files import write_atomically
from trainer.problems import ConfigError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
EXPRESSION = {"type": "string", "description": "An expression, such as 2% of steps."}

COMMAND = "python -m study schemas --output workflow/schemas"


def build_schemas() -> dict[str, str]:
    """Return file name -> text of the schema."""
    tables = {
        key: TypeAdapter(dict[str, entry]).json_schema()  # type: ignore[valid-type]
        for key, entry in ENTRIES.items()
    }
    schemas = {**tables, "run": RunConfig.model_json_schema(), "study": _study_schema()}
    return {
        f"{name}.schema.json": json.dumps({"$schema": DIALECT, **schema}, indent=2) + "\n"
        for name, schema in schemas.items()
    }


def write_schemas(folder: Path, check: bool = False) -> None:
    """Write the schemas; with `check`, raise ConfigError if a file is out of date instead."""
    stale = []
    for name, text in build_schemas().items():
        path = folder / name
        if check:
            stale += [] if path.is_file() and path.read_text() == text else [name]
        else:
            write_atomically(path, text)
    if stale:
        raise ConfigError(str(folder), [f"{name}: out of date; run `{COMMAND}`" for name in stale])


def _study_schema() -> dict[str, Any]:
    """Return the schema of a study file: tables may be paths, `run` and variants are partial."""
    schema = Study.model_json_schema()
    properties, definitions = schema["properties"], schema["$defs"]
    for key in TABLES:
        path = {"type": "string", "description": "Path of the file that holds them."}
        properties[key] = {"anyOf": [path, properties[key]]}
    run = RunConfig.model_json_schema()
    groups = run.pop("$defs")
    definitions |= groups
    for part in (run, *(definitions[name] for name in ("DataConfig", "ModelConfig"))):
        part.pop("required", None)  # a study sets only some of the keys
    for group in (run, *groups.values()):
        group["properties"] = {k: _or_expression(v) for k, v in group["properties"].items()}
    definitions["PartialRun"] = run
    properties["run"] = {"$ref": "#/$defs/PartialRun"}
    for key in ("variants", "clusters_run"):
        properties[key]["additionalProperties"] = {"$ref": "#/$defs/PartialRun"}
    schema["required"] = ["study", "run", "grid"]
    entry = definitions["GridEntry"]["properties"]
    for key in (*AXES, *LENGTHS):
        entry[key] = _or_one(entry[key])
    values = entry["sweep"]["additionalProperties"]
    entry["sweep"]["additionalProperties"] = {"anyOf": [values, {}]}
    return schema


def _or_one(axis: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an axis that takes a list or one value."""
    lists = axis.get("anyOf", [{k: v for k, v in axis.items() if k != "description"}])
    one = [item["items"] for item in lists if "items" in item]
    return {"description": axis.get("description", ""), "anyOf": [*lists, *one]}


def _or_expression(value: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a setting that may be an expression if it may be a number."""
    if isinstance(value.get("additionalProperties"), dict):
        return {**value, "additionalProperties": _or_expression(value["additionalProperties"])}
    kinds = value.get("anyOf", [value])
    if not any(kind.get("type") in ("number", "integer") for kind in kinds):
        return value
    kept = {k: v for k, v in value.items() if k in ("default", "description", "title")}
    plain = [{k: v for k, v in kind.items() if k not in kept} for kind in kinds]
    return {**kept, "anyOf": [*plain, EXPRESSION]}
