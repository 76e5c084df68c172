"""What has changed since a run: its run.yaml beside the present settings of its cell. No numpy."""

from pathlib import Path
from typing import Any

from study.grid import Cell
from trainer.config import load_run_config
from trainer.problems import ConfigError
from trainer.records import CONFIG
from trainer.yaml_files import shorten

MOST_EXPLAINED = 200
"""Most runs of a study for which it is looked up, which takes 20 ms each."""

MOST_KEYS = 3
"""Most keys that are named."""

UNKNOWN = "settings have changed"


def describe_change(cell: Cell) -> str:
    """Return how the settings differ from those of the run in the cell's folder, for people:
    `steps 40 -> 60`. `UNKNOWN` if the difference is elsewhere, as in another trainer's version."""
    try:
        earlier = load_run_config([f"config={Path(cell.folder, CONFIG)}"]).results_depend_on()
    except ConfigError:
        return UNKNOWN
    present = cell.run.results_depend_on()
    keys = [key for key in {**present, **earlier} if present.get(key) != earlier.get(key)]
    told = [f"{key} {_told(earlier, key)} -> {_told(present, key)}" for key in keys[:MOST_KEYS]]
    told += [f"{len(keys) - MOST_KEYS} more"] if len(keys) > MOST_KEYS else []
    return ", ".join(told) or UNKNOWN


def _told(values: dict[str, Any], key: str) -> str:
    """Return a value as a study file has it."""
    value = values.get(key)
    if value is None:
        return "null" if key in values else "unset"
    return str(value).lower() if isinstance(value, bool) else shorten(value)
