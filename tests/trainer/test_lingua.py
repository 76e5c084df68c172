"""The group's own config files train unchanged, and unsupported keys are explained."""

from pathlib import Path

import pytest
import yaml

from tests.trainer.conftest import Runs, losses
from trainer.config import ConfigError, RunConfig, load_run_config, merge, nest

GUIDE = Path(__file__).parent / "data" / "guide.yaml"

# What makes a run of an H200 one of a laptop; nothing else of the file is touched.
SMALL = (
    "steps=20",
    "optim.warmup=5",
    "model={dim: 32, n_layers: 2, n_heads: 2, multiple_of: 32}",
    "data.batch_size=2",
    "data.seq_len=64",
)


def test_the_guides_config_trains(runs: Runs) -> None:
    source = "fineweb_edu_10bt_shuffled"
    (runs.folder / "data" / "text").rename(runs.folder / "data" / source)
    for file in (runs.folder / "data" / source).iterdir():
        file.rename(file.with_name(file.name.replace("text.", f"{source}.")))
    runs.config.write_text(GUIDE.read_text())
    paths = (
        "device=cpu",
        f"dump_dir={runs.out()}",
        f"data.root_dir={runs.folder / 'data'}",
        f"data.shards_dir={runs.folder / 'shards'}",
    )
    runs.run(*paths, *SMALL)
    curve = losses(runs.out())
    assert [step for step, _ in curve] == [1, 10, 20]
    assert curve[-1][1] < curve[0][1]


@pytest.mark.parametrize(
    "changes",
    [
        "optim: {scheduler: wsd, weight_decay: 0.033, beta1: 0.9, beta2: 0.98, epsilon: 1.0e-9}",
        "optim: {scheduler: inv_sqrt, exp_factor: 0.5, annealing_step: null}",
        "distributed: {fsdp_type: full_shard, dp_shard: 8, dp_replicate: 2, compile: true}",
        "distributed: {selective_activation_checkpointing: true, float8_recipe: null, "
        "matmul_allow_tf32: true, detect_anomaly: false}",
        "model: {head_dim: 64, n_kv_heads: 4, ffn_dim_multiplier: 1.3, multiple_of: 1024, "
        "weight_tying: true, init_base_std: 0.02, init_std_factor: current_depth, "
        "sliding_window: 512}",
        "data: {add_bos: false, add_eos: true, seed: 7, prefetch_size: 64, load_async: false}",
        "checkpoint: {path: /scratch/checkpoints, init_ckpt_path: null}",
        "checkpoint: null",
        "logging: {freq: 1, acc_freq: null, wandb: null}",
        "profiling: {run: false}",
        "async_eval_gpus: null\nprobe_freq: null\nenv: null",
        "eval: {validation: {max_sequences: 8}, harness: null, generator: null}",
    ],
)
def test_linguas_other_keys_are_accepted(changes: str) -> None:
    values = merge(yaml.safe_load(GUIDE.read_text()), yaml.safe_load(changes))
    if "head_dim" in changes:
        del values["model"]["n_heads"]
    config = RunConfig.model_validate(values)
    assert config.model.n_heads * config.model.head_dim == config.model.dim


@pytest.mark.parametrize(
    ("key", "value", "instead"),
    [
        ("env", {"OMP_NUM_THREADS": "1"}, "`setup` of the study's cluster"),
        ("gc_collect_freq", 1000, "freeze_gc"),
        ("async_eval_gpus", 8, "checkpoint.eval.every"),
        ("distributed.spawn_method", "forkserver", "torchrun"),
        ("model.vocab_size", 258, "data.tokenizer"),
        ("data.n_views", 2, "leave it out"),
        ("eval.harness", {"tasks": ["hellaswag"]}, "exported model"),
        ("eval.validation.max_steps", 100, "max_sequences"),
        ("checkpoint.continue_training_from_init", True, "checkpoint.continue_from"),
    ],
)
def test_unsupported_keys_name_the_alternative(key: str, value: object, instead: str) -> None:
    values = merge(yaml.safe_load(GUIDE.read_text()), {"eval": {}}, nest(key, value))
    with pytest.raises(ConfigError) as caught:
        load_with(values)
    (problem,) = caught.value.problems
    assert problem.path == tuple(key.split("."))
    assert instead in problem.message


def load_with(values: dict) -> RunConfig:
    from trainer.settings import validate

    return validate(RunConfig, values, "run.yaml")


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(GUIDE.read_text().replace("eval: null", "eval: {validation: {max_seq: 1}}"))
    with pytest.raises(ConfigError) as caught:
        load_run_config([f"config={file}", "optim.lrr=1", "steps=0"])
    assert len(caught.value.problems) == 3
