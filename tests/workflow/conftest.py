from collections.abc import Iterator

import pytest

from study.jobs.machine_lock import VARIABLE


@pytest.fixture(scope="session", autouse=True)
def own_lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no other training run on this machine make a test wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("lock") / "machine.lock"))
        yield
