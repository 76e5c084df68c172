"""How tables become files."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole: a reader sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


def to_csv(rows: Sequence[Any], row_type: type[Any]) -> str:
    """Return instances of a dataclass as CSV, a column a field; what is not known stays empty."""
    text = io.StringIO()
    names = [field.name for field in fields(row_type)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = asdict(row)
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()})
    return text.getvalue()
