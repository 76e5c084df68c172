import hashlib
import platform
from pathlib import Path

import pytest
import torch

from trainer.folder import software


def test_software_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash is of the names and contents of all sources, also outside a git repository."""
    assert software.PACKAGE.name == "trainer"
    (tmp_path / "e").mkdir()
    for name in ("d.py", "g.py", "e/a.py", "a.py", "f.py", "a.txt", "c.py", "b.py"):
        (tmp_path / name).write_text(f"in {name}")
    monkeypatch.setattr(software, "PACKAGE", tmp_path)
    monkeypatch.setattr(software, "read_driver", lambda: "570.86.15")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = software.describe_software()
    names = ("a.py", "b.py", "c.py", "d.py", "e/a.py", "f.py", "g.py")
    sources = "".join(f"{name}\0in {name}" for name in names)
    assert found["trainer_version"] == hashlib.sha256(sources.encode()).hexdigest()[:12]
    assert found["commit"] is None
    versions = found["versions"]
    assert (versions.python, versions.torch) == (platform.python_version(), torch.__version__)
    assert (versions.cuda, versions.driver) == ("13.0", "570.86.15")


@pytest.mark.parametrize(
    ("gpu", "built", "expected"),
    [(True, True, "2.27.5"), (True, False, None), (False, True, None)],
)
def test_the_version_of_nccl_is_that_of_runs_on_gpus(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, built: bool, expected: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: built)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 27, 5))
    assert software.describe_software()["versions"].nccl == expected
