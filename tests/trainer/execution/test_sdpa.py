"""Which of SDPA's kernels are enabled, with torch's switch to the kernel of a package simulated."""

from collections.abc import Iterator

import pytest
from torch.nn import attention

from trainer.execution import sdpa

ALL = ["cudnn", "flash", "efficient", "math"]


class Packages:
    """The installed packages of flash attention, and the one in use."""

    def __init__(self, *installed: str) -> None:
        self.installed = installed
        self.used: str | None = None

    def activate(self, name: str) -> None:
        if name not in self.installed:
            raise ImportError(f"no {name}")
        self.used = name

    def restore(self) -> None:
        self.used = None


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Packages]:
    found = Packages("FA3")
    monkeypatch.setattr(
        attention, "current_flash_attention_impl", lambda: found.used, raising=False
    )
    monkeypatch.setattr(attention, "activate_flash_attention_impl", found.activate, raising=False)
    monkeypatch.setattr(attention, "restore_flash_attention_impl", found.restore, raising=False)
    yield found
    sdpa.allow_all()


def test_a_single_kernel_is_allowed(packages: Packages) -> None:
    for name in ALL:
        sdpa.allow_only(name)
        assert (sdpa.enabled(), packages.used) == ([name], None)
    sdpa.allow_only("fa3")
    assert (sdpa.enabled(), sdpa.flash_package()) == (["flash"], "FA3")
    sdpa.allow_only("flash")  # torch's own
    assert (sdpa.enabled(), sdpa.flash_package()) == (["flash"], None)
    sdpa.allow_only("fa3")
    sdpa.allow_all()
    assert (sdpa.enabled(), sdpa.flash_package()) == (ALL, None)


@pytest.mark.parametrize(("name", "usable"), [("fa3", True), ("fa4", False), (None, False)])
def test_looking_for_a_package_changes_nothing(
    packages: Packages, name: str | None, usable: bool
) -> None:
    assert sdpa.is_usable(name) == usable
    assert (sdpa.enabled(), packages.used) == (ALL, None)
    sdpa.allow_only("math")
    assert sdpa.is_usable("cudnn") and sdpa.enabled() == ["math"]


def test_older_versions_of_torch_have_one_flash_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(attention, "current_flash_attention_impl", raising=False)
    assert sdpa.flash_package() is None
    sdpa.allow_only("flash")
    assert sdpa.enabled() == ["flash"]
    sdpa.allow_all()
    assert sdpa.enabled() == ALL
