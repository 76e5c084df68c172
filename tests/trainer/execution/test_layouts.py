"""Every layout trains the same model: losses, samples and checkpoints do not depend on it."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer.conftest import Runs, long, losses, read_records
from tests.trainer.folder.other_models import V, make_llama, write_lingua
from trainer.config import (
    ActivationCheckpointing,
    DistributedConfig,
    ModelConfig,
    RunConfig,
    load_run_config,
)
from trainer.execution.compiling import compile_blocks
from trainer.folder.checkpoint import load_weights
from trainer.folder.checkpoint_state import of_step
from trainer.model.masks import DocumentBorder
from trainer.model.model import Transformer
from trainer.model.weight_names import transformers_name
from trainer.problems import ConfigError
from trainer.records import checkpoint_name
from trainer.tokens.data import positions
from trainer.world import World

GLOBAL_BATCH = 64
STEPS = 8
HALF = STEPS // 2
TOLERANCE = 2e-5
"""Of a loss near 4, in float32: sums are taken in another order."""

FULL = "distributed.fsdp_type=full_shard"
TP = "distributed.tp_size="
SHARDS = "distributed.dp_shard="
MUON = "optim.name=muon"
OTHER = (
    "model={dim: 32, n_layers: 2, n_heads: 8, n_kv_heads: 4, multiple_of: 32, qk_norm: true, "
    "norm_type: layernorm, activation: relu2, rope_scaling: {rope_type: linear, factor: 2.0}}"
)
"""Another architecture."""
KEPT = {
    "full": ["distributed.activation_checkpointing=full"],
    "selective": ["distributed.activation_checkpointing=selective"],
    "accumulated": ["grad_acc_steps=2"],
}
LAYOUTS = {
    1: KEPT,
    2: {
        "ddp": [],
        "fsdp": [FULL],
        "hsdp": [FULL, f"{SHARDS}1"],
        "tp": [f"{TP}2"],
        "ddp-accumulated": KEPT["accumulated"],
        "fsdp-selective": [FULL, *KEPT["selective"]],
        "fsdp-accumulated": [FULL, *KEPT["accumulated"]],
        "tp-selective": [f"{TP}2", *KEPT["selective"]],
        "muon-ddp": [MUON],
        "other-tp": [OTHER, f"{TP}2"],
    },
    4: {
        "ddp": [],
        "fsdp": [FULL],
        "hsdp": [FULL, f"{SHARDS}2"],
        "tp": [f"{TP}4"],
        "fsdp-tp": [FULL, f"{TP}2"],
        "ddp-tp": [f"{TP}2", *KEPT["full"]],
        "muon-fsdp-tp": [FULL, f"{TP}2", MUON],
        "other-fsdp-tp": [OTHER, FULL, f"{TP}2"],
    },
    8: {
        "fsdp": [FULL],
        "fsdp-tp": [FULL, f"{TP}4"],
        "hsdp-tp": [FULL, f"{SHARDS}2", f"{TP}2"],
        "muon-hsdp": [FULL, f"{SHARDS}2", MUON],
        "other-fsdp": [OTHER, FULL],  # the norms of heads have 4 weights, fewer than processes
    },
}
COMPILED = {
    1: {"one": []},
    2: {"fsdp-selective": LAYOUTS[2]["fsdp-selective"], "tp-selective": LAYOUTS[2]["tp-selective"]},
}
MORE_COMPILED = {
    1: {"one": [], "full": KEPT["full"]},
    4: {"fsdp-tp": LAYOUTS[4]["fsdp-tp"], "ddp-tp": LAYOUTS[4]["ddp-tp"]},
}


def arguments(runs: Runs, name: str, processes: int, settings: list[str]) -> list[str]:
    """Return a command line with the same global batch on any number of processes."""
    shares = processes // tp_size(settings)
    passes = 2 if "grad_acc_steps=2" in settings else 1
    return [
        f"config={runs.config}",
        f"dump_dir={runs.out(name)}",
        f"data.batch_size={GLOBAL_BATCH // shares // passes}",
        "data.seq_len=16",
        "model={dim: 32, n_layers: 2, n_heads: 8, n_kv_heads: 4, multiple_of: 32}",
        f"steps={STEPS}",
        f"checkpoint={{dump: {{every: {HALF}, keep: -1}}}}",
        *settings,
    ]


def tp_size(settings: list[str]) -> int:
    """Return the tensor-parallel processes that settings ask for."""
    return max(int(setting.removeprefix(TP)) for setting in [f"{TP}1", *settings] if TP in setting)


def samples(folder: Path, processes: int, settings: list[str]) -> list[list[list[int]]]:
    """Return what the ranks of a run have read: of each step the samples, in their order."""
    ranks = [json.loads((folder / f"samples-{rank}.json").read_text()) for rank in range(processes)]
    peers = tp_size(settings)
    for rank, read in enumerate(ranks):
        assert read == ranks[rank // peers * peers], "tensor-parallel ranks share their samples"
    return [
        [sample for micro in zip(*step, strict=True) for part in micro for sample in part]
        for step in zip(*ranks[::peers], strict=True)
    ]


def assert_same_losses(one: Path, other: Path) -> None:
    expected, found = losses(one), losses(other)
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [loss for _, loss in found] == pytest.approx(
        [loss for _, loss in expected], abs=TOLERANCE
    ), other
    # Adam's losses hardly tell the scale of the gradients, and clipped ones not at all.
    norms = [[record["optim/grad_norm"] for record in read_records(path)] for path in (one, other)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4), other
    last = [json.loads((path / "run.json").read_text())["loss_validation"] for path in (one, other)]
    assert last[1] == pytest.approx(last[0], abs=TOLERANCE)


def assert_same_run(runs: Runs, name: str, processes: int, settings: list[str]) -> None:
    """Compare losses and samples with those of the plain run on one process."""
    plain = "muon" if MUON in settings else "other" if OTHER in settings else "one"
    assert_same_losses(runs.out(plain), runs.out(name))
    expected, found = samples(runs.out("one"), 1, []), samples(runs.out(name), processes, settings)
    assert [len(step) for step in expected] == [64] * STEPS
    assert found == expected, name


def test_losses_do_not_depend_on_the_layout(runs: Runs) -> None:
    """Steps with the same global batch; some then resume, from any checkpoint.

    Others start from weights of other programs.
    """
    plain = {"one": [], "muon": [MUON], "other": [OTHER]}
    runs.run_several([arguments(runs, name, 1, settings) for name, settings in plain.items()])
    for processes, layouts in LAYOUTS.items():
        lines = [
            arguments(runs, f"{name}{processes}", processes, settings)
            for name, settings in layouts.items()
        ]
        others = _starting_from(runs) if processes == 4 else {}
        runs.run_several([*lines, *others.values()], processes)
        _assert_started_from(runs, others)
        for name, settings in layouts.items():
            assert_same_run(runs, f"{name}{processes}", processes, settings)
        layout = json.loads((runs.out(f"{name}{processes}") / "run.json").read_text())["layout"]
        assert layout["dp_replicate"] * layout["dp_shard"] * layout["tp_size"] == processes
    _go_on_under_the_same_layout(runs)
    _go_on_under_another_layout(runs)


@pytest.mark.parametrize("layouts", [COMPILED, pytest.param(MORE_COMPILED, marks=long)])
def test_losses_do_not_depend_on_compiling(
    runs: Runs, layouts: dict[int, dict[str, list[str]]]
) -> None:
    runs.run_several([arguments(runs, "one", 1, [])])
    compiled = ["distributed.compile=true", f"distributed.compile_cache={runs.folder / 'cache'}"]
    for processes, kinds in layouts.items():
        lines = [
            arguments(runs, f"{name}{processes}", processes, [*settings, *compiled])
            for name, settings in kinds.items()
        ]
        runs.run_several(lines, processes)
        for name, settings in kinds.items():
            assert_same_run(runs, f"{name}{processes}", processes, settings)
            facts = json.loads((runs.out(f"{name}{processes}") / "run.json").read_text())
            assert facts["choices"]["compiled"]
    startup = json.loads((runs.out("one1") / "run.json").read_text())["attempts"][0]["startup"]
    assert startup["compile_s"] > startup["first_step_s"]


def _starting_from(runs: Runs) -> dict[str, list[str]]:
    """Return runs on four processes that start from the same weights in files of others.

    Their shards cut the heads of lingua's wk. The rate is so small that no step changes a weight.
    """
    changes = {"n_kv_heads": 2}
    make_llama(changes).save_pretrained(runs.folder / "hf", max_shard_size="100KB")
    write_lingua(runs.folder / "lingua", make_llama(changes), changes)
    chosen = {
        "from-hf": ("hf", "fsdp-tp"),
        "from-lingua": ("lingua", "fsdp-tp"),
        "from-ours": ("from-lingua", "hsdp"),
    }
    return {
        name: [
            *arguments(runs, name, 4, LAYOUTS[4][layout]),
            "model={dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, multiple_of: 64}",
            *(f"data.tokenizer.n_words={V}", "steps=2", "optim.lr=1e-30", "eval=null"),
            f"checkpoint={{init_ckpt_path: {runs.folder / source}}}",
        ]
        for name, (source, layout) in chosen.items()
    }


def _assert_started_from(runs: Runs, names: Iterable[str]) -> None:
    expected = make_llama({"n_kv_heads": 2}).state_dict()
    for name in names:
        found = load_weights(of_step(runs.out(name) / "checkpoints", 2))
        assert len(found) == len(expected)
        for key, weight in found.items():
            assert torch.equal(weight, expected[transformers_name(key)]), (name, key)


def _go_on_under_the_same_layout(runs: Runs) -> None:
    """Bitwise: sums over four processes are taken in the same order."""
    names = ("ddp", "hsdp", "ddp-tp", "muon-fsdp-tp")
    folders = [runs.out(f"{name}4") / "checkpoints" for name in names]
    expected = [load_weights(of_step(folder, STEPS)) for folder in folders]
    for folder in folders:
        _back_to_half(folder.parent)
    runs.run_several([arguments(runs, f"{name}4", 4, LAYOUTS[4][name]) for name in names], 4)
    for folder, weights in zip(folders, expected, strict=True):
        found = load_weights(of_step(folder, STEPS))
        assert all(torch.equal(found[key], weight) for key, weight in weights.items()), folder


def _go_on_under_another_layout(runs: Runs) -> None:
    """Checkpoints in the middle, of 8, 4, 2 and 1 processes, on fewer, more and other ones."""
    pairs = {
        "fsdp8": (2, "tp"),
        "hsdp-tp8": (4, "hsdp"),
        "fsdp-tp4": (2, "ddp"),
        "one": (2, "fsdp"),
    }
    lines: dict[int, list[list[str]]] = {2: [], 4: []}
    for source, (processes, layout) in pairs.items():
        folder = runs.out(source)
        _back_to_half(folder)
        lines[processes].append(arguments(runs, source, processes, LAYOUTS[processes][layout]))
    expected = losses(runs.out("ddp2"))
    for processes, commands in lines.items():
        runs.run_several(commands, processes)
    for source in pairs:
        facts = json.loads((runs.out(source) / "run.json").read_text())
        assert facts["attempts"][-1]["first_step"] == HALF + 1
        assert [loss for _, loss in losses(runs.out(source))] == pytest.approx(
            [loss for _, loss in expected], abs=TOLERANCE
        ), source


def _back_to_half(folder: Path) -> None:
    """Undo the second half of a run: its last checkpoint, and that it was completed."""
    shutil.rmtree(folder / "checkpoints" / checkpoint_name(STEPS))
    facts = json.loads((folder / "run.json").read_text())
    facts["status"] = "failed"
    (folder / "run.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("processes", "tp_size"), [(1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (4, 2), (8, 2), (8, 4)]
)
def test_samples_do_not_depend_on_the_layout(processes: int, tp_size: int) -> None:
    """The first 64 samples of a step are the same; tensor-parallel ranks share theirs."""
    shares = processes // tp_size
    found = []
    for rank in range(processes):
        world = World(rank, processes, rank, processes, torch.device("cpu"), tp_size)
        found.append(positions(2, world.data_size, world.data_rank, 64 // shares // 2))
    distinct = np.concatenate([part.ravel() for part in found[::tp_size]])
    assert sorted(distinct) == list(range(64))
    for rank, part in enumerate(found):
        assert (part == found[rank // tp_size * tp_size]).all()


@pytest.mark.parametrize(
    ("settings", "gpus", "expected"),
    [
        ({"tp_size": 3}, 4, "tp_size = 3 does not divide 4 processes"),
        (
            {"fsdp_type": "full_shard", "dp_shard": 3},
            4,
            "dp_replicate 1 x dp_shard 3 x tp_size 1 are not 4",
        ),
        ({"dp_replicate": 2}, 4, "dp_replicate 2 x dp_shard 1 x tp_size 1 are not 4 processes"),
        ({"tp_size": 4}, 4, "tp_size = 4 does not divide model.n_kv_heads = 2"),
        ({"tp_size": 8}, 8, "tp_size = 8 does not divide model.n_heads = 4"),
        (
            {"fsdp_type": "full_shard", "cuda_graphs": True},
            2,
            "distributed.cuda_graphs = true: not supported with sharded weights",
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_reported(settings: dict, gpus: int, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        spread_config(settings).check_processes(gpus)


def spread_config(settings: dict[str, Any], **model: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "dump_dir": "x",
            "steps": 1,
            "model": {"dim": 32, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, **model},
            "data": {"root_dir": "x", "sources": {"text": 1}, "seq_len": 64},
            "distributed": settings,
        }
    )


def test_a_layout_that_fits_is_accepted() -> None:
    """What is refused of several processes is not of one."""
    spread_config({"fsdp_type": "full_shard", "cuda_graphs": True}).check_processes(1)
    spread_config({"tp_size": 2, "dp_replicate": 2}).check_processes(4)
    odd = spread_config({"tp_size": 2}, multiple_of=1)
    with pytest.raises(ConfigError, match=r"tp_size = 2 does not divide the FFN's .* = 85"):
        odd.check_processes(2)
    tied = spread_config({"tp_size": 2}, weight_tying=True)
    with pytest.raises(ConfigError, match=r"weight_tying: not supported with distributed\.tp_size"):
        tied.check_processes(2)
    spread_config({}, weight_tying=True).check_processes(2)


def test_ddp_on_a_cpu_does_not_reduce_in_bf16(runs: Runs) -> None:
    """torch refuses the hook, at the end of the start-up and with a traceback."""
    settings = "distributed.reduce_dtype=bf16"
    refused = load_run_config([f"config={runs.config}", settings])
    with pytest.raises(ConfigError, match=r"distributed.reduce_dtype = bf16: .*; expected fp32"):
        refused.check_processes(2)
    refused.check_processes(1)
    load_run_config([f"config={runs.config}", settings, FULL]).check_processes(2)
    load_run_config([f"config={runs.config}", settings, "device=cuda"]).check_processes(2)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch.compile's own
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("ac_mode", ["selective", "full"])
def test_activation_checkpointing_changes_no_gradient(
    ac_mode: ActivationCheckpointing, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It also reads no generator state, which a CUDA graph could not capture."""
    if not compiled:
        monkeypatch.delattr(torch, "get_rng_state")
    config = ModelConfig(dim=32, n_layers=2, n_heads=2, multiple_of=32)
    tokens = torch.randint(0, 258, (2, 17), generator=torch.Generator().manual_seed(0))
    gradients = []
    for kind in ("none", ac_mode):
        model = Transformer(config, 258, 16)
        model.init_weights(0)
        for layer in model.layers:
            layer.ac_mode = kind  # type: ignore[assignment]
        if compiled:
            compile_blocks(model, DistributedConfig(), with_loss=False)
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert other is not None
        # Compiled code fuses other operations if it recomputes.
        assert torch.allclose(one, other, rtol=1e-5 if compiled else 0, atol=1e-7 * compiled)


def test_documents_do_not_see_each_other() -> None:
    """With the mask, a document has the same logits as alone."""
    config = ModelConfig(dim=32, n_layers=2, n_heads=2, multiple_of=32)
    model = Transformer(config, 258, 16, DocumentBorder(256, opens=True))
    model.init_weights(0)
    first, second = torch.tensor([[256, 1, 2, 3]]), torch.tensor([[256, 4, 5, 6, 7]])
    together = model(torch.cat((first, second), dim=1))
    torch.testing.assert_close(together[:, :4], model(first))
    torch.testing.assert_close(together[:, 4:], model(second))
