import time

import pytest

from trainer.startup import Startup


def test_startup_counts_from_the_start_of_the_process() -> None:
    before = time.perf_counter()
    startup = Startup()
    startup.mark("imports")
    startup.mark("model")
    startup.mark("data")
    startup.mark("model")
    startup.finish()
    assert list(startup.split) == ["imports_s", "model_s", "data_s", "total_s"]
    # This process began before the test did; its parts add up to the whole.
    assert startup.split["total_s"] is not None
    assert startup.split["total_s"] > time.perf_counter() - before
    parts = sum(v for k, v in startup.split.items() if k != "total_s" and v is not None)
    assert parts == pytest.approx(startup.split["total_s"], abs=0.05)
