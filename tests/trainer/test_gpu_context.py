"""The context of a GPU that is opened while torch is imported, by a driver that notes its calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.conftest import Runs

DRIVER = r"""
#include <cstdio>
#include <cstdlib>
#include <unistd.h>

static int note(const char *call, long value) {
    FILE *calls = fopen(getenv("CALLS"), "a");
    fprintf(calls, "%s %ld %s\n", call, value, getenv("CUDA_MODULE_LOADING"));
    fclose(calls);
    return 0;
}

extern "C" int cuInit(unsigned flags) {
    usleep(1000 * atoi(getenv("CU_INIT_MS")));
    note("cuInit", flags);
    return atoi(getenv("CU_INIT"));
}
extern "C" int cuDeviceGet(int *device, int index) {
    *device = 40 + index;
    note("cuDeviceGet", index);
    return atoi(getenv("CU_DEVICE_GET"));
}
extern "C" int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = nullptr;
    return note("cuDevicePrimaryCtxRetain", device);
}
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a libcuda.so.1 without a GPU."""
    folder = tmp_path_factory.mktemp("driver")
    source, library = folder / "driver.cpp", folder / "libcuda.so.1"
    source.write_text(DRIVER)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, source], check=True)
    return folder


def variables(driver: Path, calls: Path, **others: str) -> dict[str, str]:
    ours = {"LD_LIBRARY_PATH": f"{driver}", "CALLS": f"{calls}"}
    return {**ours, "CU_INIT": "0", "CU_INIT_MS": "0", "CU_DEVICE_GET": "0", **others}


CONTEXT = """
import sys, time
from trainer.gpu_context import open_early
start = time.perf_counter()
open_early(3)
waited = time.perf_counter() - start
print(waited < 0.2, "torch" in sys.modules)
"""


def opened(driver: Path, calls: Path, **others: str) -> str:
    environment = {**os.environ, **variables(driver, calls, **others)}
    done = subprocess.run(
        [sys.executable, "-c", CONTEXT], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout


def test_the_context_opens_beside_the_program(driver: Path, tmp_path: Path) -> None:
    """A program that ends before the driver has answered waits for it."""
    calls = tmp_path / "calls"
    assert opened(driver, calls, CU_INIT_MS="500") == "True False\n"
    assert calls.read_text() == (
        "cuInit 0 LAZY\ncuDeviceGet 3 LAZY\ncuDevicePrimaryCtxRetain 43 LAZY\n"
    )


def test_a_users_way_to_load_kernels_is_kept(driver: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    opened(driver, calls, CUDA_MODULE_LOADING="EAGER")
    assert calls.read_text().startswith("cuInit 0 EAGER\n")


def test_no_device_is_asked_for_after_an_error(driver: Path, tmp_path: Path) -> None:
    """100 is CUDA_ERROR_NO_DEVICE."""
    calls = tmp_path / "calls"
    assert opened(driver, calls, CU_INIT="100") == "True False\n"
    assert calls.read_text() == "cuInit 0 LAZY\n"


def test_no_context_is_opened_of_a_device_that_is_not_there(driver: Path, tmp_path: Path) -> None:
    """101 is CUDA_ERROR_INVALID_DEVICE."""
    calls = tmp_path / "calls"
    assert opened(driver, calls, CU_DEVICE_GET="101") == "True False\n"
    assert calls.read_text() == "cuInit 0 LAZY\ncuDeviceGet 3 LAZY\n"


def test_a_machine_without_a_driver_has_no_context(tmp_path: Path) -> None:
    assert opened(tmp_path, tmp_path / "calls") == "True False\n"


def test_a_run_opens_the_context_of_its_own_gpu(runs: Runs, driver: Path, tmp_path: Path) -> None:
    """torch finds no GPU here and says so; on a CPU no run asks for the driver."""
    calls = tmp_path / "calls"
    ranks = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    done = runs.run("device=cuda", check=False, **variables(driver, calls, **ranks))
    assert done.returncode == 1
    assert "torch finds no GPU here" in done.stderr
    assert calls.read_text().splitlines()[1:] == [
        "cuDeviceGet 1 LAZY",
        "cuDevicePrimaryCtxRetain 41 LAZY",
    ]
    calls.unlink()
    runs.run("steps=4", **variables(driver, calls))
    assert not calls.exists()
