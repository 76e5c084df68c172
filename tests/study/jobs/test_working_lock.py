from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.exceptions import LockException

from study.jobs.working_lock import OwnLocks

IDS = range(8)


def invocation(folder: Path, name: str, *, reads: str = "shared") -> OwnLocks:
    """Return the records of an invocation that makes `name` from `reads`."""
    job = SimpleNamespace(input=[reads], output=[name])
    settings = SimpleNamespace(max_checksum_file_size=0)
    workflow = SimpleNamespace(dag_settings=settings)
    dag: Any = SimpleNamespace(jobs=[job], needrun_jobs=lambda: [job], workflow=workflow)
    return OwnLocks(dag=dag, path=folder)


def test_a_process_deletes_its_own_locks(tmp_path: Path) -> None:
    first, second = invocation(tmp_path, "a"), invocation(tmp_path, "b")
    with first.lock():
        with second.lock():
            pass
        with pytest.raises(LockException), invocation(tmp_path, "a").lock():
            pass
        with pytest.raises(LockException), invocation(tmp_path, "c", reads="a").lock():
            pass
    with invocation(tmp_path, "a").lock():
        pass


def test_the_folder_of_locks_may_be_gone_before_a_process_locks(tmp_path: Path) -> None:
    """As after `--unlock`."""
    waiting = invocation(tmp_path, "a")
    invocation(tmp_path, "b").cleanup_locks()
    with waiting.lock(), pytest.raises(LockException), invocation(tmp_path, "a").lock():
        pass


def test_unlock_removes_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    held = invocation(tmp_path, "a").lock()
    held.__enter__()  # and never left
    other = invocation(tmp_path, "a")
    assert other.locked
    other.cleanup_locks()
    assert not other.locked


def test_processes_that_lock_at_once_have_a_lock_each(tmp_path: Path) -> None:
    """With Snakemake's own, two could choose one file."""
    locks = [invocation(tmp_path, f"file-{index}") for index in IDS]
    with ThreadPoolExecutor(len(locks)) as pool:
        for _ in range(50):
            list(pool.map(lambda lock: lock._write_locks("output", lock.all_outputfiles()), locks))
            held = {key for _, key in locks[0]._read_locks()}
            assert held == {f"file-{index}" for index in IDS}
            list(pool.map(OwnLocks.unlock, locks))
            assert not locks[0].locked
