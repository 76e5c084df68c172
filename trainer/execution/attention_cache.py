"""The attention kernel that a benchmark has chosen, kept beside the compiled code.

Later runs of the same shape on such a GPU take it from there: their losses have the same rounding
errors, and they start without the benchmark.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch

from trainer.files import write_atomically
from trainer.json_files import parse_json


@dataclass(frozen=True)
class Question:
    """What the answer depends on."""

    kernels: tuple[str, ...]
    """Those to choose from, in order of preference."""
    shape: tuple[int, ...]
    """Sequences, tokens, heads and key-value heads of this process, numbers per head."""
    dtype: str
    masked: bool
    gpu: str
    software: tuple[str, ...]
    """Versions of what has the kernels."""


def find_chosen(cache: str | None, question: Question) -> str | None:
    """Return the answer that is kept in a folder of compiled code, one of its kernels, or None."""
    if cache is None:
        return None
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = parse_json(_path(cache, question).read_bytes())
        if json.dumps(kept["question"]) == _text(question):
            return next((name for name in question.kernels if name == kept["attention"]), None)
    return None


def keep_chosen(cache: str | None, question: Question, answer: str) -> None:
    """Keep an answer; without a folder, or if it cannot be written, the next run asks again."""
    if cache is None:
        return
    path = _path(cache, question)
    content = {"attention": answer, "question": asdict(question)}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, indent=1) + "\n")


def _path(cache: str, question: Question) -> Path:
    digest = hashlib.sha256(_text(question).encode()).hexdigest()[:16]
    return Path(cache, "attention", f"{digest}.json")


def _text(question: Question) -> str:
    return json.dumps(asdict(question))


def versions(packages: Iterable[str]) -> tuple[str, ...]:
    """Return the versions of torch, cuDNN and those of these packages that are installed."""
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    found = [f"torch {torch.__version__}", f"cudnn {cudnn}"]
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return tuple(found)
