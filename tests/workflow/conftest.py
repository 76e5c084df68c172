from collections.abc import Iterator

import pytest

from study.jobs.machine_lock import VARIABLE


@pytest.fixture(scope="session", autouse=True)
def own_lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use a separate lock, so that tests do not wait for other training runs on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("lock") / "machine.lock"))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process of pytest-xdist run all tests of the finished study, which it trains once."""
    for item in items:
        if "done" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("done"))
