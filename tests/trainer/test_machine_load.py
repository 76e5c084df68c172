import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.trainer.conftest import Runs, account, read_records
from trainer.host import count_cores
from trainer.machine_load import MachineLoad

SPIN = "print(flush=True)\nwhile True: pass"


class Machine:
    """A /proc of four cores and some processes, with a clock."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.now_s = folder, 1000.0
        self.cores = [[0] * 10 for _ in range(4)]
        self.processes = {pid: [0, 0, 0, 0] for pid in (7, 8)}
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        self.write()

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.write()

    def write(self) -> None:
        total = [sum(column) for column in zip(*self.cores, strict=True)]
        lines = [f"cpu  {' '.join(map(str, total))}"]
        lines += [f"cpu{n} {' '.join(map(str, core))}" for n, core in enumerate(self.cores)]
        (self.folder / "stat").write_text("\n".join([*lines, "intr 5 0", "ctxt 3"]) + "\n")
        for pid, times in self.processes.items():
            (self.folder / str(pid)).mkdir(exist_ok=True)
            before = "S 1 7 7 0 -1 4194304 100 0 0 0"
            text = f"{pid} (a (b) c) {before} {' '.join(map(str, times))} 20 0 1 0 500"
            (self.folder / str(pid) / "stat").write_text(text)


USER, NICE, SYSTEM, IDLE, IOWAIT, IRQ, SOFTIRQ, STEAL, GUEST = range(9)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    return Machine(tmp_path, monkeypatch)


def test_the_runs_own_time_and_idle_time_are_not_counted(machine: Machine) -> None:
    """In 10 s: 800 ticks of two ranks; 300 of others, 150 of them stolen; the rest idle."""
    load = MachineLoad([7, 8], range(4), machine.folder)
    assert load.cores == 4
    machine.pass_time(1)
    assert load.read() == 0
    machine.cores[0][USER] += 500
    machine.cores[1][SYSTEM] += 300
    machine.cores[2][NICE] += 100
    machine.cores[2][SOFTIRQ] += 50
    machine.cores[3][STEAL] += 150
    machine.cores[3][IDLE] += 5000
    machine.cores[3][IOWAIT] += 5000
    machine.processes[7][:2] = [400, 99]
    machine.processes[8] = [200, 0, 100, 1]
    machine.pass_time(10)
    assert load.read() == pytest.approx(0.3)
    assert load.mean == pytest.approx(0.3)


def test_cores_that_the_run_may_not_use_are_not_counted(machine: Machine) -> None:
    load = MachineLoad([7], [1, 2], machine.folder)
    machine.pass_time(1)
    load.read()
    machine.cores[0][USER] += 1000
    machine.cores[2][USER] += 500
    machine.pass_time(10)
    assert load.read() == pytest.approx(0.5)
    assert load.cores == 2


def test_a_guests_time_is_counted_once(machine: Machine) -> None:
    load = MachineLoad([7], range(4), machine.folder)
    machine.pass_time(1)
    load.read()
    machine.cores[0][USER] += 100
    machine.cores[0][GUEST] += 100
    machine.pass_time(1)
    assert load.read() == pytest.approx(1.0)


def test_the_mean_begins_at_the_first_record(machine: Machine) -> None:
    """Start-up, which may have processes of its own that compile, is no part of it."""
    load = MachineLoad([7], range(4), machine.folder)
    assert load.mean is None
    machine.cores[0][USER] += 400
    machine.pass_time(2)
    assert load.read() == pytest.approx(2.0)
    assert load.mean is None
    for ticks, seconds, expected in ((100, 1, 1.0), (10, 0.2, None), (50, 2.8, 0.2)):
        machine.cores[0][USER] += ticks
        machine.pass_time(seconds)
        assert load.read() == (None if expected is None else pytest.approx(expected))
    assert load.mean == pytest.approx(160 / 100 / 4)


def test_clocks_that_disagree_by_a_tick_make_no_negative_load(machine: Machine) -> None:
    load = MachineLoad([7], range(4), machine.folder)
    machine.pass_time(1)
    load.read()
    machine.processes[7][0] += 1
    machine.pass_time(1)
    assert (load.read(), load.mean) == (0, 0)


def test_without_proc_the_load_is_not_known(tmp_path: Path) -> None:
    load = MachineLoad([7], range(4), tmp_path / "nowhere")
    assert (load.read(), load.mean) == (None, None)


@contextmanager
def spinning(count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Keep `count` processes busy."""
    command = [sys.executable, "-c", SPIN]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_process_counts_as_own_or_other() -> None:
    """On the real /proc, whatever else this machine does: the difference is the process alone."""
    cores = os.sched_getaffinity(0)
    with spinning(1) as (process,):
        counts = MachineLoad([], cores), MachineLoad([process.pid], cores)
        for load in counts:
            load.read()
        start, cpu_s = time.monotonic(), spent_s(process)
        time.sleep(2)
        all_of_it, rest = (load.read() for load in counts)
        spun = (spent_s(process) - cpu_s) / (time.monotonic() - start)
    assert all_of_it is not None
    assert rest is not None
    assert all_of_it - rest == pytest.approx(spun, abs=0.1)


def spent_s(process: "subprocess.Popen[str]") -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def test_a_run_records_the_load_of_other_processes(runs: Runs) -> None:
    """One thread and four processes that spin: four fifths of the cores for these, at most four.

    A cgroup may have less time than its cores: then these are never all busy.
    """
    with spinning(4):
        runs.run("steps=100", "logging.freq=10", "checkpoint=null")
    loads = [record["machine/load"] for record in read_records(runs.out())]
    known = [load for load in loads[1:] if load is not None]
    facts = account(runs.out())
    assert known
    others = 4 * min(1, count_cores() / 5)
    assert sum(known) / len(known) > 0.65 * others
    assert facts["machine_load"] > 0.65 * others
    assert facts["machine_cores"] == len(os.sched_getaffinity(0))
