"""Start-up time by phase, from process start to the end of the first step. Imports no torch."""

import os
import time

from trainer.host import start_ticks


class Startup:
    """Times the phases from the start of the process to the end of its first step."""

    def __init__(self) -> None:
        launch_s = _age_s(os.getppid()) if "TORCHELASTIC_RUN_ID" in os.environ else None
        own_s = _age_s(os.getpid())
        self.split: dict[str, float | None] = {}
        if launch_s is not None:
            # The user also waits for torchrun's own start.
            self.split["launcher_s"] = launch_s - own_s
        self._begin = time.perf_counter() - (launch_s or own_s)
        self._last = time.perf_counter() - own_s

    def mark(self, name: str) -> None:
        """Charge the time since the last mark to `name`, in addition to earlier ones."""
        now, known = time.perf_counter(), self.split.get(f"{name}_s") or 0.0
        self.split[f"{name}_s"] = known + now - self._last
        self._last = now

    def finish(self) -> None:
        """Record the total, at the end of the first step."""
        self.split["total_s"] = self.elapsed_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the process, or of the torchrun that started it."""
        return time.perf_counter() - self._begin


def _age_s(pid: int) -> float:
    """Return the seconds since a process started."""
    started_s = start_ticks(pid) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
