"""Generated wrong configs: each is rejected with its keys' full paths, before training."""

import contextlib
import io
import math
import re
import signal
import sys
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tests.trainer.model.scalings import LLAMA3
from trainer.__main__ import main
from trainer.config import CheckpointConfig, ProfilingConfig, RunConfig
from trainer.execution.compiling import use_cache
from trainer.folder.checkpoint import Saver
from trainer.folder.profiler import Profiler
from trainer.folder.run_file import Lock
from trainer.problems import ConfigError
from trainer.tokens.shards import ensure_shards
from trainer.world import World

GUIDE = Path(__file__).parent / "data" / "guide.yaml"

HUGE = (2**63, -(2**70), 10**30)
NO_NUMBER = (True, False, "many", "", "5", "1_000", [], {}, [1], {"a": 1})
NO_NUMBER += (math.nan, math.inf, -math.inf)
WRONG = {
    int: (*NO_NUMBER, 1.5, "1.5", *HUGE),
    float: NO_NUMBER,
    str: (True, 7, 1.5, [], {}, ["a"]),
    bool: ("maybe", "yes", "off", "true", 1, 0, 2, -1, 1.5, [], {}, math.nan),
}


def groups(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings class that a key holds, where it holds one."""
    parts = (annotation, *typing.get_args(annotation))
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]


def keys(model: type[BaseModel], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return path -> field of every key, groups too."""
    found = {}
    for name, field in model.model_fields.items():
        found[*path, name] = field
        for group in groups(field.annotation):
            found |= keys(group, (*path, name))
    return found


SMALL = {"dim": 64, "n_layers": 1, "n_heads": 2}
TEXT = {"root_dir": "data", "sources": {"text": 1.0}}

KEYS = keys(RunConfig)
GROUPS = [(), *(path for path, field in KEYS.items() if groups(field.annotation))]


def wrong_values(field: Any) -> list[Any]:
    """Return values that a key cannot have, by what its annotation says alone."""
    annotation = field.annotation
    kinds = {annotation, *typing.get_args(annotation)}
    if groups(annotation):
        values: list[Any] = [7, "text", [], [{}], True]
    elif field is KEYS["distributed", "compile_options"]:
        values = [7, [], "text", {"text": []}, {"text": None}, {"text": math.inf}, {"text": {}}]
    elif typing.get_origin(annotation) is dict:
        values = [7, [], "text", {"text": 0}, {"text": -1.0}, {"text": True}, {"text": math.inf}]
        values += [{}, {"": 1.0}]
    elif typing.Literal in {typing.get_origin(kind) for kind in kinds}:
        values = ["nope", "", 1.5, [], {}, *([] if bool in kinds else [True])]
    elif typing.get_origin(annotation) is tuple or tuple in {typing.get_origin(k) for k in kinds}:
        values = [7, {"a": 1}, [7]]
    else:
        values = list(WRONG[next(kind for kind in (int, float, bool, str) if has(kinds, kind))])
        inner = [part for kind in kinds for part in getattr(kind, "__metadata__", ())]
        limits = {
            name: getattr(part, name)
            for part in (*field.metadata, *inner)
            for name in ("gt", "ge", "lt", "le")
            if hasattr(part, name)
        }
        values += [limits[name] - 1 for name in ("gt", "ge") if name in limits]
        values += [limits[name] + 1 for name in ("lt", "le") if name in limits]
        values += [limits[name] for name in ("gt", "lt") if name in limits]
    return [*values, *([None] if type(None) not in kinds else [])]


def has(kinds: set[Any], kind: type) -> bool:
    """Say whether a kind, bare or annotated, is one of an annotation's parts."""
    return kind in kinds or any(kind in typing.get_args(part) for part in kinds)


@st.composite
def mistakes(draw: st.DrawFn) -> tuple[str, tuple[str, ...], Any]:
    """Return what to do (set or delete) with a key, and the value."""
    kind = draw(st.sampled_from(["value", "value", "value", "misspelt", "unknown", "missing"]))
    if kind == "missing":
        required = [path for path, field in KEYS.items() if field.is_required()]
        # A model without n_heads or head_dim has both from the other.
        path = draw(st.sampled_from([p for p in required if p[-1] not in ("n_heads", "head_dim")]))
        return "delete", path, None
    if kind == "value":
        path = draw(st.sampled_from(sorted(KEYS)))
        value = draw(st.sampled_from(wrong_values(KEYS[path])))
        assume(value is not None or path[-1] not in ("n_heads", "head_dim"))
        return "set", path, value
    group = draw(st.sampled_from(GROUPS))
    known = {path[-1] for path in KEYS if path[:-1] == group}
    if kind == "misspelt":
        name = draw(st.sampled_from(sorted(known)))
        place = draw(st.integers(0, len(name) - 1))
        name = name[:place] + draw(st.sampled_from("aeiou_")) + name[place + 1 :]
    else:
        name = draw(st.text("abcdefghij_", min_size=1, max_size=8))
    assume(name not in known)
    return "set", (*group, name), draw(st.sampled_from([1, "x", {}, True]))


def apply(values: dict[str, Any], mistake: tuple[str, tuple[str, ...], Any]) -> None:
    action, path, value = mistake
    for name in path[:-1]:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    if action == "delete":
        values.pop(path[-1], None)
    else:
        values[path[-1]] = value


@pytest.fixture(scope="module")
def no_training() -> Any:
    """In place of what trains: a module that says that it was reached."""
    fake = types.ModuleType("trainer.loop.run")
    fake.run = lambda *_: 99  # type: ignore[attr-defined]
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "trainer.loop.run", fake)
        yield
    signal.signal(signal.SIGTERM, handler)


def command(path: Path, values: dict[str, Any]) -> tuple[int, str]:
    """Return exit code and stderr of the trainer's command on a config file."""
    path.write_text(yaml.safe_dump(values))
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main([f"config={path}"])
    return code, errors.getvalue()


def test_a_valid_config_is_accepted(tmp_path: Path, no_training: None) -> None:
    assert command(tmp_path / "run.yaml", yaml.safe_load(GUIDE.read_text())) == (99, "")


def test_a_study_is_no_run(tmp_path: Path, no_training: None) -> None:
    file = tmp_path / "study.yaml"
    code, errors = command(file, {"study": "a", "models": {}, "run": {}})
    told = "found the keys models, run, study; expected dump_dir, steps, model, data"
    assert (code, errors) == (1, f"{file}: 1 problem\n  {told}\n")


@settings(max_examples=400)
@given(wrong=st.lists(mistakes(), min_size=1, max_size=3))
@example(wrong=[("delete", ("model", "n_layers"), None), ("set", ("model", "n_heads"), 2**63)])
def test_every_wrong_config_is_rejected_with_its_keys(
    tmp_path_factory: pytest.TempPathFactory, no_training: None, wrong: list[Any]
) -> None:
    paths = [path for _, path, _ in wrong]
    for one in paths:  # one mistake must not undo another
        assume(sum(other[: len(one)] == one for other in paths) == 1)
    values = yaml.safe_load(GUIDE.read_text()) | {"eval": {}}
    for mistake in wrong:
        apply(values, mistake)
    file = tmp_path_factory.getbasetemp() / "run.yaml"
    code, errors = command(file, values)
    lines = errors.splitlines()
    assert code == 1, errors
    assert lines[0].startswith(f"{file}: "), errors
    assert "Traceback" not in errors
    for path in paths:
        dotted = ".".join(path)
        ways = tuple(f"  {dotted}{mark}" for mark in ":.[ ")
        assert any(re.sub(r"line \d+: ", "", line).startswith(ways) for line in lines), errors


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"model": {"dim": 6, "n_layers": 1, "n_heads": 2}},
            "model.n_heads: head_dim = 3 is odd",
        ),
        (
            {"optim": {"scheduler": "inv_sqrt"}},
            "optim.scheduler: warmup = 0, but scheduler inv_sqrt falls as",
        ),
        (
            {"optim": {"scheduler": "wsd", "decay_fraction": 0.5, "cycle_length": 0.4}},
            "optim.decay_fraction = 0.5 must be less",
        ),
        (
            {"optim": {"scheduler": "wsd", "lr_min_ratio": 0}},
            "optim.lr_min_ratio = 0, but scheduler wsd divides by",
        ),
        (
            {"steps": 6, "optim": {"scheduler": "wsd", "cycle_length": 0.15}},
            "optim.cycle_length = 0.15 of steps = 6 is less than one step",
        ),
        (
            {"model": {**SMALL, "rope_scaling": {**LLAMA3, "rope_type": "linear"}}},
            "model.rope_scaling.rope_type = linear has only factor; remove low_freq_factor, high_",
        ),
        (
            {"model": {**SMALL, "rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}},
            "model.rope_scaling.high_freq_factor = 1; expected more than low_freq_factor = 1",
        ),
        (
            {"model": {**SMALL, "rope_scaling": LLAMA3, "pos_embed": "none"}},
            "model.pos_embed = none leaves rope_scaling nothing to scale",
        ),
        (
            {"data": {**TEXT, "document_mask": True, "add_bos": False, "add_eos": False}},
            "data.document_mask = true needs add_bos or add_eos",
        ),
        (
            {"device": "cuda", "model": {**SMALL, "sliding_window": 8}}
            | {"distributed": {"attention": "flash"}},
            "distributed.attention = flash: not supported with a mask; expected one of auto, flex",
        ),
        (
            {"distributed": {"float8_recipe": "rowwise", "tp_size": 2}},
            "distributed.float8_recipe: not supported with tp_size > 1",
        ),
        (
            {"distributed": {"float8_filter": "layers.("}},
            "distributed.float8_filter: found 'layers.('; expected a regular expression: missing )",
        ),
        ({"distributed": {"dp_shard": 2}}, "distributed.dp_shard = 2 needs fsdp_type"),
        (
            {
                "distributed": {
                    "selective_activation_checkpointing": True,
                    "activation_checkpointing": "full",
                }
            },
            "distributed.selective_activation_checkpointing = true contradicts",
        ),
        ({"eval": {"validation": {"max_sequences": -1}}}, "eval.validation.max_sequences: found"),
        ({"profiling": {"trace_folder": "/t"}}, "profiling.trace_folder: found '/t'; expected a "),
        ({"profiling": {"trace_folder": "a/../.."}}, "profiling.trace_folder: found 'a/../..'; "),
    ],
)
def test_keys_that_contradict_each_other_are_named(
    tmp_path: Path, no_training: None, changes: dict[str, Any], told: str
) -> None:
    code, errors = command(tmp_path / "run.yaml", yaml.safe_load(GUIDE.read_text()) | changes)
    assert code == 1
    assert re.match(rf"  line \d+: {re.escape(told)}", errors.splitlines()[1]), errors


def test_a_folder_that_cannot_be_made_is_named_with_its_key(tmp_path: Path) -> None:
    """Before the first step: each of these is made when a run opens."""
    taken, alone = tmp_path / "file", World(0, 1, 0, 1, torch.device("cpu"))
    taken.touch()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "text.chunk.00.jsonl").write_text('{"text": "abc"}')
    profiling = ProfilingConfig(run=True, trace_folder=taken.name)
    makers = {
        "dump_dir": lambda: Lock(taken / "run"),
        "checkpoint.path": lambda: Saver(taken, CheckpointConfig(), alone),
        "profiling.trace_folder": lambda: Profiler(profiling, tmp_path, alone, 0),
        "data.shards_dir": lambda: ensure_shards(tmp_path, "text", taken),
    }
    for key, make in makers.items():
        with pytest.raises(ConfigError, match=rf"file.*\n  {key}: not a writable folder"):
            make()
    with pytest.raises(ConfigError, match=r"file: 1 .*\n  distributed.compile_cache: a file; exp"):
        use_cache(str(taken / "cache"))
