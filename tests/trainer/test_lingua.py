"""The group's config trains unchanged; lingua's keys pass, or are refused by name."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.trainer.conftest import Runs, losses
from trainer.config import DistributedConfig, RunConfig, load_run_config
from trainer.layers import merge, nest
from trainer.problems import ConfigError, Problem

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
        ("env", {"OMP_NUM_THREADS": "2"}, "`setup` of the study's cluster"),
        ("env", {"NCCL_ALGO": "Ring"}, "`setup` of the study's cluster"),
        ("gc_collect_freq", 0, "freeze_gc"),
        ("probe_freq", 100, "set it to null, or see profiling"),
        ("async_eval_gpus", 8, "checkpoint.eval.every"),
        ("distributed.spawn_method", 7, "torchrun"),
        ("model.vocab_size", 300, "data.tokenizer"),
        ("model.max_seqlen", 4096, "data.seq_len"),
        ("data.n_views", 4, "expected 2"),
        ("data.n_views", True, "expected 2"),
        ("eval.harness", {"tasks": ["hellaswag"]}, "exported model"),
        ("eval.harness", 7, "exported model"),
        ("eval.validation.max_steps", 100, "max_sequences"),
        ("eval.validation.root_dir", "books", "name the sources of the held-out text in sources"),
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


@pytest.mark.parametrize(
    ("changes", "same_as"),
    [
        ({"data": {"n_views": 2}}, {}),
        ({"model": {"max_seqlen": 2048}}, {}),
        ({"model": {"vocab_size": 258}}, {}),
        ({"model": {"vocab_size": -1, "n_future_head": 1}}, {}),
        ({"optim": {"annealing_step": 1000}, "gc_collect_freq": 1000}, {}),
        ({"distributed": {"spawn_method": "forkserver"}}, {}),
        ({"env": {"OMP_NUM_THREADS": "1", "NCCL_IB_TIMEOUT": 22}}, {}),
        ({"env": {}, "async_eval_gpus": 8, "logging": {"acc_freq": 5}}, {}),
        ({"checkpoint": {"continue_training_from_init": False}}, {}),
        ({"eval": {"harness": {"tasks": None}, "generator": {"max_tokens": 8192}}}, {"eval": {}}),
        (
            {
                "eval": {
                    "validation": {"use_val_from_train_src": True, "root_dir": "", "sources": []}
                }
            },
            {"eval": {}},
        ),
        (
            {"eval": {"validation": {"max_steps": None}}},  # lingua: the whole file
            {"eval": {"validation": {"max_sequences": None}}},
        ),
        (
            {"eval": {"validation": {"max_steps": None, "max_sequences": 8}}},
            {"eval": {"validation": {"max_sequences": 8}}},
        ),
    ],
)
def test_keys_that_ask_for_what_happens_anyway_pass(
    changes: dict[str, Any], same_as: dict[str, Any]
) -> None:
    guide = yaml.safe_load(GUIDE.read_text())
    assert load_with(merge(guide, changes)) == load_with(merge(guide, same_as))


def test_records_within_a_step_are_refused() -> None:
    values = merge(yaml.safe_load(GUIDE.read_text()), {"logging": {"acc_freq": 1}})
    with pytest.raises(ConfigError, match="acc_freq: records cover whole steps"):
        load_with(values | {"grad_acc_steps": 2})


def test_the_vocabulary_of_a_file_is_its_tokenizers() -> None:
    tokenizer = {"name": "tiktoken", "path": "ranks"}
    values = merge(yaml.safe_load(GUIDE.read_text()), {"data": {"tokenizer": tokenizer}})
    config = load_with(merge(values, {"model": {"vocab_size": 128512}}))
    assert config.data.tokenizer.vocab_size == 128512
    both = merge(values, {"data": {"tokenizer": {"n_words": 9}}, "model": {"vocab_size": 10}})
    with pytest.raises(ConfigError, match=r"model\.vocab_size: the tokenizer decides"):
        load_with(both)


# What lingua writes: every key of its dataclasses, null where there is no value.
DUMPED = """\
name: large_lm
dump_dir: /scratch/lingua/large_lm
seed: 777
grad_acc_steps: 1
gc_collect_freq: 1000
probe_freq: null
steps: 60000
data:
  root_dir: data/shuffled
  sources:
    dclm_baseline_1.0: 100.0
  batch_size: 4
  seq_len: 4096
  n_views: 2
  seed: 42
  add_bos: true
  add_eos: true
  load_async: true
  prefetch_size: 1024
  tokenizer:
    name: bytes
    path: null
optim:
  lr: 0.003
  weight_decay: 0.033
  epsilon: 1.0e-08
  beta1: 0.9
  beta2: 0.95
  clip: 1.0
  scheduler: cosine
  warmup: 5000
  lr_min_ratio: 1.0e-06
  cycle_length: 1.0
  cosine_theta: 1.0
  annealing_step: 1000
  decay_fraction: 0.1
  exp_factor: 0.5
model:
  dim: 2048
  n_layers: 25
  head_dim: null
  n_heads: 16
  n_kv_heads: null
  ffn_dim_multiplier: null
  multiple_of: 256
  norm_eps: 1.0e-05
  rope_theta: 10000.0
  init_base_std: null
  init_std_factor: disabled
  max_seqlen: 4096
  seed: 42
  vocab_size: 258
  weight_tying: false
  sliding_window: null
distributed:
  dp_shard: 1
  dp_replicate: 8
  tp_size: 1
  selective_activation_checkpointing: false
  compile: true
  fsdp_type: full_shard
  model_dtype: bf16
  float8_recipe: null
  float8_filter: layers\\.[0-9]+\\.
  matmul_allow_tf32: false
  detect_anomaly: false
  compile_cache_size_limit: 8
  spawn_method: forkserver
env:
  MKL_SERVICE_FORCE_INTEL: GNU
  OMP_NUM_THREADS: '1'
  MKL_NUM_THREADS: '1'
  ENABLE_INTRA_NODE_COMM: '1'
  TORCH_NCCL_AVOID_RECORD_STREAMS: '1'
  NCCL_IB_TIMEOUT: '22'
  NCCL_DEBUG: INFO
  TORCH_NCCL_ASYNC_ERROR_HANDLING: '1'
checkpoint:
  dump:
    every: 2500
    keep: 3
  eval:
    every: 5000
    keep: -1
  path: /scratch/lingua/large_lm/checkpoints
  init_ckpt_path: null
  continue_training_from_init: false
profiling:
  run: false
  trace_folder: profiling
  mem_warmup: 100
  mem_steps: 2
  profile_warmup: 102
  profile_steps: 2
logging:
  freq: 1
  acc_freq: null
  wandb:
    job_type: null
    dir: null
    project: lingua
    entity: null
    tags: null
    group: null
    name: large_lm
    notes: null
    config_exclude_keys: null
    config_include_keys: null
    anonymous: null
    mode: null
    allow_val_change: null
    resume: null
    force: null
    tensorboard: null
    sync_tensorboard: null
    monitor_gym: null
    save_code: null
    id: null
    fork_from: null
    resume_from: null
async_eval_gpus: 8
eval: null
"""


def test_the_config_that_a_lingua_run_writes_loads(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(DUMPED)
    config = load_run_config([f"config={file}"])
    assert (config.weights_seed, config.data.seed, config.seed) == (42, 42, 777)
    assert config.data.tokenizer.vocab_size == 258
    assert [config.distributed.data_parallel(gpus) for gpus in (8, 4)] == [(1, 8), (1, 4)]
    assert not config.find_problems(8)
    assert RunConfig.model_validate(yaml.safe_load(config.to_yaml())) == config
    json_file = tmp_path / "params.json"  # of a checkpoint
    json_file.write_text(json.dumps(yaml.safe_load(DUMPED)))
    assert load_run_config([f"config={json_file}"]) == config


# The keys that tell the families in lingua's repository apart, next to ordinary ones.
OTHERS = [
    ("model: {dim: 8, n_heads: 3, conv_size: 4, dt_bias: false}", "model.conv_size", "mamba"),
    (
        "model: {dim: 8, n_layers: 2, state_dim: 128}\ndata: {n_views: 3}",
        "model.state_dim",
        "mamba",
    ),
    ("model_type: hawk\nmodel: {dim: 8, n_heads: 22, conv_size: 4}", "model_type", "'hawk'"),
    ("model_type: minGRU\nmodel: {dim: 8}\nprobe_freq: 9", "model_type", "'minGRU'"),
    ("model: {dimensions: [8, 9], layers: [1, 2], block: {}}", "model.dimensions", "AUNet"),
    ("model: {dim: 8, n_future_head: 3}\ndata: {n_views: 4}", "model.n_future_head", "heads"),
    ("name: e\nharness: {tasks: [piqa]}\ngenerator: {}", "harness", "evaluation job"),
    ("tasks: boolq,piqa\ngenerator: {}\nmp_size: 1", "generator", "evaluation job"),
]


@pytest.mark.parametrize(("text", "key", "told"), OTHERS)
def test_another_family_or_job_gets_one_line(
    tmp_path: Path, text: str, key: str, told: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_run_config([f"config={file}", "dump_dir=out"])
    first, line = str(caught.value).splitlines()
    assert first == f"{file}: 1 problem"
    assert re.match(rf"  line \d: {re.escape(key)}: .*{told}", line)
    assert "apps/main" in line or "docs/from_lingua.md" in line


EVALUATION = {
    "generator": {"max_tokens": 16384, "dtype": "bf16"},
    "harness": {"tasks": ["hellaswag", {"task": "nq_open", "num_fewshot": 5}]},
    "validation": {"max_steps": 1000},
    "dataset_dir": "datasets/eval",
}


def test_evaluation_during_training_gets_one_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    values = yaml.safe_load(DUMPED) | {"eval": EVALUATION}
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.raises(ConfigError) as caught:
        load_run_config([f"config={file}"])
    (problem,) = caught.value.problems
    assert (problem.path, problem.line) == (("eval", "harness"), find_line(file, "harness"))
    assert "evaluate.tasks" in problem.message
    assert load_run_config([f"config={file}", "eval=null"]).eval is None
    problems = [*map(str, refused(yaml.safe_load(DUMPED) | {"eval": EVALUATION, "steps": 0}))]
    assert [line.split(":")[0] for line in problems] == ["steps", "eval.harness"]


def refused(values: dict[str, Any]) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_with(values)
    return caught.value.problems


def find_line(file: Path, key: str) -> int:
    lines = file.read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.strip().startswith(f"{key}:"))


@pytest.mark.parametrize(
    ("settings", "gpus", "expected"),
    [
        # lingua's mesh is dp_replicate alone if dp_shard is 1, and all of it is sharded.
        ("fsdp_type: full_shard, dp_shard: 1", 8, (1, 8)),
        ("fsdp_type: full_shard, dp_shard: 1, dp_replicate: 8", 8, (1, 8)),
        ("fsdp_type: full_shard, dp_shard: 1, dp_replicate: 2, tp_size: 2", 8, (1, 4)),
        ("fsdp_type: full_shard, dp_shard: 4", 8, (2, 4)),
        ("fsdp_type: full_shard", 8, (1, 8)),
        ("fsdp_type: no_shard, dp_shard: 1, dp_replicate: 8", 8, (8, 1)),
    ],
)
def test_layouts_mean_what_they_mean_in_lingua(
    settings: str, gpus: int, expected: tuple[int, int]
) -> None:
    distributed = DistributedConfig.model_validate(yaml.safe_load(f"{{{settings}}}"))
    assert distributed.data_parallel(gpus) == expected


def load_with(values: dict) -> RunConfig:
    from trainer.settings import validate

    return validate(RunConfig, values, "run.yaml")


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(GUIDE.read_text().replace("eval: null", "eval: {validation: {max_seq: 1}}"))
    with pytest.raises(ConfigError) as caught:
        load_run_config([f"config={file}", "optim.lrr=1", "steps=0"])
    assert len(caught.value.problems) == 3
