"""What software a run uses, for its run.json."""

import hashlib
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from trainer.git import ask_git
from trainer.gpu_state import read_driver
from trainer.records import Versions

PACKAGE = Path(__file__).parents[1]
"""The trainer's sources."""


def describe_software() -> dict[str, Any]:
    """Return versions, commit and the hash of the trainer's sources, as fields of run.json."""
    return {
        "versions": Versions(
            python=platform.python_version(),
            torch=str(torch.__version__),
            cuda=torch.version.cuda,
            nccl=_nccl(),
            driver=read_driver(),
        ),
        "commit": _commit(),
        "trainer_version": _source_hash(),
    }


def _nccl() -> str | None:
    if not (torch.cuda.is_available() and torch.distributed.is_nccl_available()):
        return None
    return ".".join(map(str, torch.cuda.nccl.version()))


def _source_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _commit() -> str | None:
    try:
        return ask_git(PACKAGE, "rev-parse", "HEAD", timeout_s=10).decode()
    except (OSError, subprocess.SubprocessError):
        return None
