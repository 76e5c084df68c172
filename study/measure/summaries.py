"""Read what a run says of itself: run.json and failure.json. Planning reads them; no numpy."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from study.grid import Cell
from study.sequences import group_by
from trainer.folder.run_file import find_summary
from trainer.json_files import parse_json
from trainer.problems import ConfigError, unreadable
from trainer.records import FAILURE, SUMMARY, Failure, RunSummary
from trainer.settings import validate
from trainer.yaml_files import shorten

MOST_NAMED = 3
"""Most cells that are named for one reason of failure."""


def read_summary(folder: str | Path) -> RunSummary | None:
    """Return a run's run.json; None if no run was started. Raises ConfigError if it is
    malformed, for which `trainer.folder.run_file.find_summary` returns None."""
    path = Path(folder, SUMMARY)
    try:
        content = path.read_bytes()
        with suppress(ValidationError):  # then read it slowly, with better messages
            return RunSummary.model_validate_json(content)
        data = parse_json(content)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        hint = "without this file, the run resumes from its newest checkpoint"
        raise ConfigError(str(path), [f"cannot be read: {error}; {hint}"]) from None
    return validate(RunSummary, as_object(data, str(path)), str(path))


def read_failure(folder: str | Path) -> Failure | None:
    """Return why the last attempt of a run failed; None if it is not known."""
    try:
        return Failure.model_validate_json(Path(folder, FAILURE).read_bytes())
    except (OSError, ValueError):
        return None


def first_line(message: str) -> str:
    """Return the first line of a failure's message; of a list of problems the first of them."""
    first, *problems = message.splitlines() or [""]
    listed = problems and first.endswith((": 1 problem", " problems"))
    return f"{first.rpartition(': ')[0]}: {problems[0].strip()}" if listed else first


def find_failures(cells: Iterable[Cell]) -> dict[str, str]:
    """Return name of a cell -> the reason, in a line, of those to measure whose last attempt
    failed, also before there was a run.json."""
    found = {}
    for cell in cells:
        summary = find_summary(cell.folder) if cell.measure else None
        failed = summary is None or (summary.status == "failed" and not is_stale(cell, summary))
        if cell.measure and failed and (failure := read_failure(cell.folder)):
            found[cell.name] = first_line(failure.message)
    return found


def describe_reasons(reasons: Mapping[str, str], what: str) -> list[str]:
    """Return a line for each reason, such as `a, b and 3 more failed: out of memory`.

    `reasons`: name of a cell -> why it has `what`.
    """
    lines = []
    for reason, names in group_by(reasons, lambda name: reasons[name]).items():
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        lines.append(f"{', '.join(names[:MOST_NAMED])}{more} {what}: {reason.rstrip('.')}")
    return lines


def is_stale(cell: Cell, summary: RunSummary) -> bool:
    """Return whether the settings of a run differ from the current ones of its cell."""
    return summary.fingerprint != cell.fingerprint


def is_up_to_date(cell: Cell) -> bool:
    """Return whether a cell's run is complete, with the cell's current settings."""
    try:
        facts = parse_json(Path(cell.folder, SUMMARY).read_bytes())
        return facts["status"] == "completed" and facts["fingerprint"] == cell.fingerprint
    except (OSError, ValueError, KeyError, TypeError):
        return False


def find_content(cell: Cell) -> dict[str, str]:
    """Return source -> key of the text that a cell's run was trained on, if it is up to date."""
    summary = find_summary(cell.folder) if is_up_to_date(cell) else None
    return {} if summary is None else dict(summary.content or {})


def as_object(data: Any, source: str) -> dict[str, Any]:
    """Return a JSON object. Raises ConfigError for any other value."""
    if not isinstance(data, dict):
        raise ConfigError(source, [f"expected a JSON object, found {shorten(data)}"])
    return data
