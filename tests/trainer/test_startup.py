"""The seconds that a start takes, as the user waits for them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.startup import Startup

ROOT = Path(__file__).parents[2]

RANK = """
import json, time
from pathlib import Path
from trainer.startup import Startup
Path("/proc/self/comm").write_text("a (b) c")
time.sleep(0.1)
startup = Startup()
startup.mark("imports")
time.sleep(0.1)
startup.mark("model")
startup.mark("data")
time.sleep(0.1)
startup.mark("model")
startup.finish()
print(json.dumps(startup.split))
"""

LAUNCHER = """
import subprocess, sys, time
time.sleep(0.3)
subprocess.run([sys.executable, "-c", *sys.argv[1:]], check=True)
"""


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


@pytest.mark.parametrize("is_torchrun", [False, True])
def test_the_start_of_torchrun_counts(is_torchrun: bool) -> None:
    """Ages of processes are known to hundredths of a second."""
    environment = {**os.environ, "RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
    if not is_torchrun:
        del environment["TORCHELASTIC_RUN_ID"]
    before = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, RANK], env=environment, cwd=ROOT, stdout=subprocess.PIPE
    )
    took = time.perf_counter() - before
    split = json.loads(done.stdout)
    launcher = ["launcher_s"] if is_torchrun else []
    assert list(split) == [*launcher, "imports_s", "model_s", "data_s", "total_s"]
    total = split.pop("total_s")
    assert sum(split.values()) == pytest.approx(total, abs=0.05)
    assert split["model_s"] >= 0.2
    if is_torchrun:
        assert split["launcher_s"] >= 0.28
        assert total < took + 0.03
    else:
        assert total < took - 0.3 + 0.03
