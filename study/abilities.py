"""What a trainer cannot do, by its description, and the cells that need it."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from study.axes import short_key
from study.grid_config import GridEntry
from study.templates import render_config
from study.terms import Placed
from trainer.config import RunConfig
from trainer.problems import ConfigError, KeyPath, Problem
from trainer.settings import default_at, dotted_keys, suggest

ACCUMULATION, STRONG_SCALING = "accumulation", "strong_scaling"
SEVERAL_NODES, SEVERAL_GPUS, VALIDATION = "several_nodes", "several_gpus", "validation"

WORDS: Mapping[str, KeyPath] = {
    ACCUMULATION: ("grad_acc_steps",),
    STRONG_SCALING: ("global_batch_size",),
    SEVERAL_NODES: ("gpus",),
    SEVERAL_GPUS: ("gpus",),
    VALIDATION: ("eval",),
}
"""What a trainer may lack that is not one setting -> the key that asks for it: of a block, or of
the run."""


@cache
def known_abilities() -> dict[str, str]:
    """Return word in `cannot` -> the dotted key of a run.yaml that it names."""
    keys = dotted_keys(RunConfig)
    return {**{short_key(key): key for key in keys}, **{key: key for key in keys}}


def unknown_abilities(name: str, cannot: tuple[str, ...]) -> Iterator[Problem]:
    """Yield a problem for each unknown word in the `cannot` of a trainer."""
    known = (*WORDS, *known_abilities())
    for index, word in enumerate(cannot):
        if word not in known:
            message = f"unknown ability '{word}'; {suggest(word, known)}"
            if "expected one of" in message:
                expected = f"expected a key of a run.yaml, or one of {', '.join(WORDS)}"
                message = f"unknown ability '{word}'; {expected}"
            yield Problem(("trainers", name, "cannot", index), message)


def find_refused(
    name: str, placed: Placed, entry: GridEntry, where: KeyPath
) -> tuple[list[Problem], list[Problem]]:
    """Return what a cell asks of its trainer that this cannot do: problems with keys of its block,
    and with keys of its run. Raises ConfigError if its config cannot be rendered.

    `where` is the block's key.
    """
    of_block, of_run = [], []
    if entry.from_ is not None:
        message = (
            f"trainer '{name}' cannot start from another cell's checkpoint; remove one of them"
        )
        of_block.append(Problem((*where, "from"), message))
    for word in placed.trainer.cannot:
        is_known = word in WORDS or word in known_abilities()
        found = _asked(word, placed, entry) if is_known else None
        if found is None:
            continue
        expected = f"trainer '{name}' cannot do that ({word}, by its description)"
        if word in WORDS and WORDS[word][0] in ("global_batch_size", "gpus"):
            of_block.append(Problem((*where, *WORDS[word]), f"found {found}; {expected}"))
        else:
            key = WORDS.get(word) or tuple(known_abilities()[word].split("."))
            of_run.append(Problem(key, f"found {found}; {expected}"))
    try:
        render_config(placed)
    except ConfigError as error:
        of_block += error.problems
    return of_block, of_run


def _asked(word: str, placed: Placed, entry: GridEntry) -> Any:
    """Return what a cell asks for that a word names; None if it does not."""
    run, gpus = placed.run, placed.gpus
    if word in WORDS:
        nodes = placed.cluster.nodes(gpus)
        asked: dict[str, Any] = {
            ACCUMULATION: run.grad_acc_steps if run.grad_acc_steps > 1 else None,
            STRONG_SCALING: entry.global_batch_size,
            SEVERAL_NODES: f"{gpus} GPUs on {nodes} nodes" if nodes > 1 else None,
            SEVERAL_GPUS: f"{gpus} GPUs" if gpus > 1 else None,
            VALIDATION: "a validation loss" if run.eval is not None else None,
        }
        return asked[word]
    path = tuple(known_abilities()[word].split("."))
    value: Any = run
    for part in path:
        value = getattr(value, part, None)
    return None if value == default_at(RunConfig, path) else value
