"""A GPU's context, opened in the background while torch is imported. Imports no torch."""

import ctypes
import os
import threading

DRIVER = "libcuda.so.1"


def open_early(index: int) -> threading.Thread:
    """Start to open the primary context of a visible GPU; return the thread that does.

    The driver takes tenths of a second to seconds for it, torch some seconds for its import, and
    the first call of the CUDA runtime uses a context that is open (CUDA driver API, primary context
    management). Without a driver, or after an error, nothing is open: torch reports what is wrong.
    """
    # As torch does: kernels are loaded when first launched. The driver reads it when initialised.
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    # Not a daemon: the driver must not be interrupted by the end of the process.
    thread = threading.Thread(target=_open, args=(index,), name="gpu_context")
    thread.start()
    return thread


def _open(index: int) -> None:
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), index) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
