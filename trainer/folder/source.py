"""The checkpoint of another run that this one continues: `checkpoint.continue_from`.

The source is only read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.collectives import found_by_main
from trainer.config import RunConfig
from trainer.folder.checkpoint_state import (
    STATE,
    Position,
    complete,
    is_intact,
    read_state,
)
from trainer.folder.run_folder import read_settings, saved_by
from trainer.problems import ConfigError, unreadable
from trainer.records import CONFIG
from trainer.tokens.order import DataStart, count_taken
from trainer.world import World

KEY = "checkpoint.continue_from"


@dataclass(frozen=True)
class Source:
    """A checkpoint, and the settings of the run that wrote it."""

    path: Path
    """Its folder."""
    position: Position
    settings: RunConfig

    def continued(self, config: RunConfig, start: Position) -> Position:
        """Return the position at which a run begins that continues this one.

        `start` is that of a run from its beginning. Data that is the same goes on at the next
        sample. After a change of sources, weights or text, the sampling order of the new mix
        begins, and each source whose text is the same goes on where it stopped.

        Raises ConfigError if the run cannot continue this one.
        """
        reached = self.position
        problems = list(self._find_problems(config, start.tokenizer))
        if problems:
            raise ConfigError(str(self.path), [f"{KEY}: {problem}" for problem in problems])
        assert reached.global_batch is not None
        samples = (reached.step - reached.data.step) * reached.global_batch
        tokens = reached.data.tokens + samples * config.data.seq_len
        samples += reached.data.sample
        taken = reached.data.taken
        old, new = self.settings.data.sources, config.data.sources
        if old != new or reached.content != start.content:
            read = count_taken(old, config.order_seed, samples)
            changed = _changed(reached.content or {}, start.content or {})
            taken = {
                name: taken.get(name, 0) + read.get(name, 0)
                for name in sorted(taken.keys() | read.keys())
                if name not in changed
            }
            samples = 0
        begin = DataStart(reached.step, samples, tokens, taken)
        return replace(start, step=reached.step, data=begin)

    def _find_problems(self, config: RunConfig, tokenizer: str | None) -> Iterator[str]:
        if config.steps <= self.position.step:
            yield f"is at step {self.position.step}; expected less than steps = {config.steps}"
        if self.position.global_batch is None:
            yield f"found no global_batch in {STATE}; expected a checkpoint of this version"
        wanted = config.checkpoint and config.checkpoint.continue_run
        reached = f"{self.position.trajectory}-{self.position.step}"
        if wanted not in (None, reached):
            yield f"is checkpoint {reached}; expected {wanted}, of a run with other settings"
        found, expected = self.settings.settings_of_continued(), config.settings_of_continued()
        found["the tokenizer"] = self.position.tokenizer
        expected["the tokenizer"] = tokenizer
        for key, value in expected.items():
            if found[key] != value and None not in (found[key], value):
                yield f"found {key} = {found[key]}; expected {value}, as in this run"


def find_source(path: Path, world: World) -> Source:
    """Return the newest intact checkpoint of a run or a folder, or the one at `path`.

    All ranks call it. Raises ConfigError on rank 0; the others exit with code 1.
    """
    return found_by_main(lambda: _find(path), world)


def _find(path: Path) -> Source:
    try:
        newest = next((found for found in _candidates(path) if is_intact(*found)), None)
    except OSError as error:
        raise unreadable(path, error, f"{KEY}: ") from None
    if newest is None:
        expected = "the folder of a run of this trainer, or of one of its checkpoints"
        raise ConfigError(str(path), [f"{KEY}: found no intact checkpoint; expected {expected}"])
    folder, facts = newest
    if not (folder / CONFIG).exists():
        expected = f"a checkpoint with its run's {CONFIG}, as this version writes them"
        raise ConfigError(str(folder), [f"{KEY}: found no {CONFIG}; expected {expected}"])
    return Source(folder, Position.of(facts), read_settings(folder))


def _candidates(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the checkpoints that a path names, newest first, with their state.json."""
    if (path / STATE).exists():
        try:
            yield path, read_state(path)
        except (OSError, ValueError) as error:
            raise unreadable(path, error, f"{KEY}: ") from None
        return
    if (path / CONFIG).exists():
        yield from complete(*saved_by(path))
    else:
        yield from complete(path)


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> set[str]:
    """Return the sources of both whose text differs."""
    return {name for name in old.keys() & new.keys() if old[name] != new[name]}
