"""One training run at a time on a machine, and signals to it and to those that wait."""

import errno
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from study.cluster_config import ClusterConfig
from study.jobs.launch import launch_line
from study.jobs.machine_lock import VARIABLE, acquire
from tests.trainer.conftest import ROOT, Runs, account, wait_for_step
from tests.waiting import PATIENCE_S, wait_until

HERE = ClusterConfig(gpu_name="CPU core", gpus_per_node=2)

LOCK = ("python", "-m", "study.jobs.machine_lock")

COUNT_SIGNALS = """
import signal, time
count = 0
def receive(number, frame):
    global count
    count += 1
signal.signal(signal.SIGTERM, receive)
print("ready", flush=True)
while not count:
    time.sleep(0.01)
time.sleep(1)
print(count)
"""


class Machine:
    """Starts commands as launch lines do, with a separate lock for the test."""

    def __init__(self, folder: Path) -> None:
        self.lock = folder / "machine.lock"
        self._started: list[subprocess.Popen[str]] = []

    def bash(self, line: str) -> subprocess.Popen[str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        process = subprocess.Popen(
            ["bash", "-c", line],
            cwd=ROOT,
            env={**os.environ, VARIABLE: str(self.lock), "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def alone(self, command: str) -> subprocess.Popen[str]:
        # As in a launch line, and with a command behind it: else the shell becomes the command.
        line = f"trap '' TERM USR1; {' '.join(LOCK)} {command}; exit $?"
        return self.bash(line)

    def is_free(self) -> bool:
        return subprocess.run(["flock", "-n", self.lock, "true"], check=False).returncode == 0

    def close(self) -> None:
        for process in self._started:
            if alive(process):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
            process.communicate()


def alive(process: "subprocess.Popen[str]") -> bool:
    return process.poll() is None


def find(process: "subprocess.Popen[str]", *words: str) -> psutil.Process:
    """Return the descendant whose command line begins with these words."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                line = child.cmdline()
            except psutil.NoSuchProcess:
                continue
            if tuple(line[: len(words)]) == words:
                return child
        time.sleep(0.01)
    pytest.fail(f"no process {words}")


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def test_two_launches_train_one_after_the_other(runs: Runs, machine: Machine) -> None:
    begun = time.monotonic()
    both = [
        machine.bash(f"{launch_line(HERE, 1)} {shlex.join(arguments)}")
        for arguments in ([f"config={runs.config}", f"dump_dir={runs.out(name)}"] for name in "ab")
    ]
    outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in both]
    took_s = time.monotonic() - begun
    assert [process.returncode for process in both] == [0, 0], outputs
    attempts = [account(runs.out(name))["attempts"][0] for name in ("a", "b")]
    first, second = sorted(attempts, key=lambda attempt: attempt["start"])
    assert datetime.fromisoformat(first["end"]) <= datetime.fromisoformat(second["start"])
    assert sum("another training run uses this machine" in output for output in outputs) == 1
    assert sum(f"dump_dir={runs.folder}" in output for output in outputs) == 1  # who holds it
    # Start-up and wall-clock time count from torchrun's start: waiting is no part of them.
    assert first["wall_s"] + second["wall_s"] < took_s


def test_a_stop_request_reaches_the_trainer(runs: Runs, machine: Machine) -> None:
    arguments = shlex.join([f"config={runs.config}", "steps=5000", "checkpoint={}"])
    process = machine.bash(f"{launch_line(HERE, 1)} {arguments} | cat")
    wait_for_step(runs.out(), 10)
    find(process, *LOCK).terminate()
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert account(runs.out())["status"] == "preempted", output
    assert machine.is_free()


@pytest.mark.parametrize("to_group", [False, True])
def test_the_command_gets_a_stop_request_once(machine: Machine, to_group: bool) -> None:
    script = machine.lock.with_name("count.py")
    script.write_text(COUNT_SIGNALS)
    process = machine.alone(f"python {shlex.quote(str(script))}")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    holder = find(process, *LOCK)
    wait_until(lambda: os.getpgid(holder.pid) == holder.pid, "it leads a group")
    if to_group:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        holder.terminate()
    assert process.communicate(timeout=PATIENCE_S)[0] == "1\n"
    assert process.returncode == 0


def test_killing_the_holder_releases_the_lock(machine: Machine) -> None:
    process = machine.alone("sleep 600")
    sleep = find(process, "sleep", "600")
    find(process, *LOCK).kill()
    process.wait(timeout=PATIENCE_S)
    assert not machine.is_free()  # the command itself is at work still
    sleep.kill()
    wait_until(machine.is_free, "the machine is free")


def test_a_waiting_command_can_be_stopped(machine: Machine) -> None:
    holder = machine.alone("sleep 600")
    find(holder, "sleep", "600")
    waiting = machine.alone("echo alone")
    assert waiting.stdout is not None
    assert "process" in waiting.stdout.readline()
    find(waiting, *LOCK).terminate()
    assert "alone" not in waiting.communicate(timeout=PATIENCE_S)[0].splitlines()
    assert waiting.returncode == 128 + signal.SIGTERM
    assert alive(holder)


def test_the_exit_code_is_the_commands(machine: Machine) -> None:
    codes = {"false": 1, "bash -c 'exit 75'": 75, "bash -c 'kill -9 $$'": 137, "nosuch": 127}
    for command, code in codes.items():
        assert machine.alone(command).wait(timeout=PATIENCE_S) == code


def test_all_users_can_lock_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    umask = os.umask(0o077)
    try:
        lock = acquire([path], "process 1: a")
    finally:
        os.umask(umask)
    assert lock is not None
    assert path.stat().st_mode & 0o777 == 0o666
    os.close(lock)


def test_without_a_lock_file_the_run_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If another user's folder has the file's path, use this user's own file, or none."""
    own = tmp_path / "own"
    lock = acquire([tmp_path, own], "process 1: a")
    assert lock is not None
    os.close(lock)
    assert own.read_text() == "process 1: a"
    assert acquire([tmp_path], "process 1: a") is None
    assert capsys.readouterr().err.count(f"warning: {tmp_path}: Is a directory") == 2


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_in_the_file_system_the_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """As on NFS without lockd, on AFS, and on Lustre mounted without flock."""

    def refuse(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    assert acquire([tmp_path / "lock"], "process 1: a") is None
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == before
    reason = f"{tmp_path}/lock: {os.strerror(number)}"
    message = f"warning: {reason}; does not wait for runs that hold this lock\n"
    assert capsys.readouterr().err == message


def test_a_removed_lock_file_is_created_again(machine: Machine) -> None:
    holder = machine.alone("sleep 600")
    sleep = find(holder, "sleep", "600")
    waiting = machine.alone("sleep 601")
    assert waiting.stdout is not None
    waiting.stdout.readline()
    machine.lock.unlink()
    sleep.kill()
    find(waiting, "sleep", "601")
    assert not machine.is_free()
