"""A short run of the fuzzer, and that it notices what it should."""

from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import __main__ as fuzzer
from tests.fuzz.readers import READERS, Reader
from trainer.problems import ConfigError


def test_no_reader_fails() -> None:
    outcome = fuzzer.fuzz(1500, seed=314, jobs=1)
    assert not outcome.failures, fuzzer.describe(outcome.failures[0], 314)
    assert outcome.tried == 1500


def test_every_seed_is_read(tmp_path: Path) -> None:
    """Else the mutations would be of what is refused anyway."""
    accepted = set()
    for name, reader in READERS.items():
        for content in reader.seeds():
            try:
                reader.read(content, tmp_path)
            except ConfigError:
                assert name.startswith("evidence ")  # each format has the samples of all
            else:
                accepted.add(name)
    assert accepted == set(READERS)


def take_memory() -> None:
    kept = []
    for _ in range(64):
        kept.append(bytes(2**28))


def loop() -> None:
    while True:
        pass


def refuse(message: str) -> None:
    raise ConfigError("file", [message])


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda: {}["missing"], "KeyError"),
        (take_memory, "MemoryError"),
        (loop, "TooSlow"),
        (lambda: refuse("x" * 200_000), "a message of 200,"),
        (lambda: exit(0), "SystemExit"),
        (lambda: refuse("a mistake"), None),
        (lambda: None, None),
    ],
)
def test_what_is_a_failure(act: Any, told: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if act is loop:
        monkeypatch.setattr(fuzzer, "CPU_S", 0.2)
    readers = {"planted": Reader(lambda content, folder: act(), lambda: [b"a", b"b"])}
    failures = fuzzer.fuzz(4, seed=0, jobs=2, readers=readers).failures
    assert [told] * len(failures) == [told for item in failures if told and told in item.what]
    assert bool(failures) == (told is not None)


def test_a_process_that_is_lost_is_a_failure() -> None:
    import os

    readers = {"planted": Reader(lambda content, folder: os._exit(3), lambda: [b"a"])}
    (failure,) = fuzzer.fuzz(2, seed=0, jobs=1, readers=readers).failures
    assert "the process ended with code 3" in failure.what


def test_an_input_depends_on_seed_reader_and_number_alone() -> None:
    for name, reader in READERS.items():
        one, again = (fuzzer.make(name, reader, 5, 1) for _ in range(2))
        assert one == again
    assert len({fuzzer.make("run", READERS["run"], n, 1) for n in range(20)}) > 15
