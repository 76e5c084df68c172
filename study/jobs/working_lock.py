"""Snakemake's lock of the working directory, in which several studies may run."""

from collections.abc import Iterable
from itertools import count
from pathlib import Path

from snakemake.persistence import PersistenceBase
from snakemake.persistence.file import FilePersistence


class OwnLocks(FilePersistence):
    """Snakemake's records, with locks that last as long as the process that wrote them.

    The original deletes the locks of all processes when one of them ends, even after `plan`: the
    others' studies could be started a second time, and one that was about to lock failed with a
    traceback.
    """

    def _read_locks(self) -> Iterable[tuple[str, str]]:
        for path in sorted(Path(self._lockdir).glob("*.lock")):
            lock_type = path.suffixes[0].removeprefix(".")
            try:
                files = path.read_text().splitlines()
            except FileNotFoundError:  # its process has ended
                continue
            for file in files:
                yield lock_type, file

    def _write_locks(self, lock_type: str, keys: Iterable[str]) -> None:
        text = "".join(f"{key}\n" for key in keys)
        if not text:
            return
        folder = Path(self._lockdir)
        folder.mkdir(parents=True, exist_ok=True)
        for number in count():
            path = folder / f"{number}.{lock_type}.lock"
            try:
                with path.open("x") as lock:
                    lock.write(text)
            except FileExistsError:
                continue
            self._lockfile[lock_type] = str(path)
            return

    def _delete_locks(self) -> None:
        for path in self._lockfile.values():
            Path(path).unlink(missing_ok=True)
        self._lockfile.clear()

    def cleanup_locks(self) -> None:
        """Delete the locks of all processes; `snakemake --unlock`."""
        super()._delete_locks()


def keep_locks_of_others() -> None:
    """Have an invocation that ends leave the locks of those that go on."""
    from snakemake import workflow  # cannot be the first of Snakemake's modules

    workflow.FilePersistence = OwnLocks


def work_without_lock() -> None:
    """Have an invocation that trains nothing run beside one that does, as with `--nolock`.

    Whether the Snakefile's study is such a one is known too late for the option.
    """
    PersistenceBase.lock = PersistenceBase.noop
