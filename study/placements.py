"""The clusters that were chosen for cells whose block names several, `cluster: {any: [a, b]}`.

A choice is made when a study is planned (study/jobs/placement.py), and written to
`placements.json` in the study's folder. It stays: everything else reads it there, or in the
`placements` of the study.yaml that is made from it.
"""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import Field, NonNegativeFloat

from trainer.files import write_atomically
from trainer.json_files import parse_json
from trainer.problems import ConfigError, unreadable
from trainer.records import Written
from trainer.settings import validate
from trainer.yaml_files import shorten

FILE = "placements.json"


class Prospect(Written):
    """What a cell may expect on one of its clusters."""

    seconds: NonNegativeFloat | None = None
    """Estimated time of its run, s; None if it is not known."""
    wait_s: NonNegativeFloat | None = None
    """Expected time until the run starts, s, with other cells of the study ahead of it; None if it
    is not known."""
    note: str = ""
    """Why a time is not known; empty if all are."""
    impossible: str = ""
    """Why the cell cannot run there; empty if it can."""


class Placement(Written):
    """The choice of a cell's cluster."""

    cluster: str
    decided: str = ""
    """When, ISO 8601; empty if the choice is not written down."""
    because: str = ""
    """What keeps the cell where it is; empty if it is placed by the prospects."""
    prospects: dict[str, Prospect] = Field(default={})
    """Cluster -> what was expected there when the choice was made."""


class UnplaceableError(ConfigError):
    """No cluster is left for some cells; its problems are with keys of the study."""


def read_placements(folder: str) -> dict[str, Placement]:
    """Return cell -> placement of a study, from its folder; none if the file does not exist.

    Raises ConfigError if it is malformed.
    """
    path = Path(folder, FILE)
    try:
        data = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if not isinstance(data, dict):
        expected = "a JSON object, cell -> placement"
        raise ConfigError(str(path), [f"found {shorten(data)}; expected {expected}"])
    found = {}
    for name, value in data.items():
        if not isinstance(value, dict):
            raise ConfigError(str(path), [f"{name}: found {shorten(value)}; expected an object"])
        found[name] = validate(Placement, value, f"{path}, {name}")
    return found


def record_placements(
    folder: str, made: Mapping[str, Placement], known: Mapping[str, Placement]
) -> dict[str, Placement]:
    """Write placements into a study's folder; return all that stand there then.

    `known` are those from which they were made. One that was written since then stays: of two
    invocations that plan a study at the same time, the first decides. Raises ConfigError.
    """
    path = Path(folder, FILE)
    try:
        with _lock(path):
            before = read_placements(folder)
            after = before | {k: v for k, v in made.items() if before.get(k) == known.get(k)}
            if after != before:
                entries = {name: item.model_dump(mode="json") for name, item in after.items()}
                write_atomically(path, json.dumps(entries, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be written: {error.strerror or error}"]) from None
    return after


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Keep other invocations from writing at the same time, where the file system has locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
