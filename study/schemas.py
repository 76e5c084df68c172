"""JSON Schemas of the files under config/, generated from the models, for completion in editors."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from study.config import Study
from study.grid import AXES
from study.load import ENTRIES, TABLES
from trainer.config import ConfigError, RunConfig
from trainer.files import write_atomically

DIALECT = "https://json-schema.org/draft/2020-12/schema"
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
    definitions |= run.pop("$defs")
    for part in (run, *(definitions[name] for name in ("DataConfig", "ModelConfig"))):
        part.pop("required", None)  # a study sets only some of the keys
    definitions["PartialRun"] = run
    properties["run"] = {"$ref": "#/$defs/PartialRun"}
    properties["variants"]["additionalProperties"] = {"$ref": "#/$defs/PartialRun"}
    schema["required"] = ["study", "run", "grid"]
    entry = definitions["GridEntry"]["properties"]
    for key in AXES:
        axis = entry[key]
        entry[key] = {
            "description": axis.get("description", ""),
            "anyOf": [{k: v for k, v in axis.items() if k != "description"}, axis["items"]],
        }
    return schema
