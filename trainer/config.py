"""The settings of one run: `RunConfig` is a run.yaml. Keys that mean the same are lingua's.

Imports no torch: the study checks and writes these files on machines without it.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import PositiveInt, model_validator

from trainer import lingua, other_names
from trainer.data_config import BYTE_VOCABULARY, HOW_DATA_IS_READ, DataConfig, TokenizerConfig
from trainer.distributed_config import ActivationCheckpointing, DistributedConfig
from trainer.layers import Layer, Merged, flatten, merge, nest
from trainer.model_config import ARCHITECTURE, ModelConfig, RopeScaling
from trainer.optim_config import OptimConfig
from trainer.output_config import (
    WANDB_PASSED_ON,
    CheckpointConfig,
    EvalConfig,
    LoggingConfig,
    ProfilingConfig,
    SaveConfig,
    ValidationConfig,
)
from trainer.paths import FilePath, expand_path, is_path
from trainer.problems import ConfigError, Problem, RuleError
from trainer.settings import LeftOut, Settings, group_in, validate
from trainer.yaml_files import Document, dump_yaml, load_document, parse_assignment

Device = Literal["cuda", "cpu"]

ATTENTION_ON_CPU = ("auto", "flash", "math")
"""Attention kernels that a CPU has."""

ATTENTION_WITH_MASK = ("auto", "flex", "cudnn", "efficient", "math")
"""Attention kernels that take a mask on a GPU."""

FLEX_BLOCK = 128
"""Queries, and keys, of a block of FlexAttention's masks."""


class RunConfig(Settings):
    """All settings of one training run: the content of run.yaml."""

    other_names: ClassVar[Mapping[str, str]] = other_names.RUN

    dump_dir: FilePath
    """Folder of the run: metrics, run.json and checkpoints."""
    name: str = "run"
    """Display name."""
    steps: PositiveInt
    """Optimizer steps."""
    seed: int = 42
    """Seed of the initial weights, unless model.seed is set, and of the sampling order, unless
    data.seed is set."""
    device: Device = "cuda"
    """What each process trains on. The run fails if the device is missing."""
    gpu_name: str | None = None
    """Words required in the GPU's name, such as H200; null: any GPU."""
    grad_acc_steps: PositiveInt = 1
    """Gradient accumulation: micro-batches per optimizer step."""
    optim: OptimConfig = OptimConfig()
    """The optimizer and its learning-rate schedule."""
    distributed: DistributedConfig = DistributedConfig()
    """Processes and arithmetic."""
    model: ModelConfig
    """The shape of the model."""
    data: DataConfig
    """The training data."""
    logging: LoggingConfig = LoggingConfig()
    """What the run logs."""
    checkpoint: CheckpointConfig | None = CheckpointConfig()
    """Checkpoints; null turns them off."""
    eval: EvalConfig | None = None
    """Validation loss; null turns it off."""
    profiling: ProfilingConfig = ProfilingConfig()
    """Traces of a few steps."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "gc_collect_freq": LeftOut(
            "garbage is collected once, before the first step; see freeze_gc", lingua.is_count
        ),
        "probe_freq": "probes are not supported; set it to null, or see profiling",
        "env": LeftOut(
            "set environment variables before the launch: `setup` of the study's cluster",
            lingua.is_default_environment,
        ),
        "async_eval_gpus": "evaluation is part of the run; see eval.every, checkpoint.eval.every",
        "model_type": lingua.ONLY,
    }

    @model_validator(mode="before")
    @classmethod
    def _read_lingua(cls, values: Any) -> Any:
        return lingua.translate(values, BYTE_VOCABULARY) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _schedule_fits(self) -> "RunConfig":
        if self.optim.warmup > self.steps:
            message = f"= {self.optim.warmup} is more than steps = {self.steps}"
            raise RuleError(["optim.warmup", "steps"], message)
        length = self.optim.cycle_length
        if self.optim.scheduler == "wsd" and int(self.steps * length) == 0:
            message = f"= {length} of steps = {self.steps} is less than one step"
            raise RuleError(["optim.cycle_length", "optim.scheduler", "steps"], message)
        return self

    @model_validator(mode="after")
    def _a_step_is_traced(self) -> "RunConfig":
        before = self.profiling.profile_warmup
        if self.profiling.run and before >= self.steps:
            message = f"= {before} leaves none of steps = {self.steps} to trace; expected fewer"
            raise RuleError(["profiling.profile_warmup", "profiling.run", "steps"], message)
        return self

    @model_validator(mode="after")
    def _attention_is_supported(self) -> "RunConfig":
        wanted, key = self.distributed.attention, "distributed.attention"
        if self.device == "cpu" and wanted not in ATTENTION_ON_CPU:
            expected = f"expected one of {', '.join(ATTENTION_ON_CPU)}"
            raise RuleError([key, "device"], f"= {wanted}: not supported on a CPU; {expected}")
        if self.device == "cuda" and self.is_masked and wanted not in ATTENTION_WITH_MASK:
            expected = f"expected one of {', '.join(ATTENTION_WITH_MASK)}"
            keys = [key, "data.document_mask", "model.sliding_window"]
            raise RuleError(keys, f"= {wanted}: not supported with a mask; {expected}")
        if wanted == "flex" and not (self.is_masked and self.fits_flex):
            expected = (
                "expected a document mask or sliding window, and data.seq_len "
                f"({self.data.seq_len}) a multiple of {FLEX_BLOCK}"
            )
            raise RuleError([key, "data.seq_len"], f"= flex: not supported here; {expected}")
        return self

    @property
    def is_masked(self) -> bool:
        """Whether attention needs a mask beyond the causal one."""
        return self.data.document_mask or self.model.sliding_window is not None

    @property
    def order_seed(self) -> int:
        """Seed of the sampling order."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def weights_seed(self) -> int:
        """Seed of the initial weights."""
        return self.seed if self.model.seed is None else self.model.seed

    @property
    def evaluation_period(self) -> int | None:
        """Steps between evaluations of the validation loss; None: only at the end, if at all."""
        if self.eval is None:
            return None
        every = self.checkpoint.eval.every if self.checkpoint else None
        return self.eval.every or every

    @property
    def fits_flex(self) -> bool:
        """Whether FlexAttention's blocks divide the sequences."""
        return self.data.seq_len % FLEX_BLOCK == 0

    def find_problems(self, gpus: int) -> list[Problem]:
        """Return the problems with running on `gpus` processes."""
        distributed = self.distributed
        rules = []
        try:
            distributed.data_parallel(gpus)
        except RuleError as error:
            rules.append(error)
        rules += self._tensor_parallel_rules()
        sharded = distributed.is_sharded(gpus)
        if distributed.cuda_graphs is True and sharded and self.device == "cuda":
            message = "= true: not supported with sharded weights; expected auto or false"
            rules.append(RuleError(["distributed.cuda_graphs"], message))
        is_ddp = gpus > 1 and not sharded
        if distributed.reduce_dtype == "bf16" and is_ddp and self.device == "cpu":
            message = "= bf16: torch's DDP reduces in bf16 on GPUs only; expected fp32"
            rules.append(RuleError(["distributed.reduce_dtype", "distributed.fsdp_type"], message))
        return [rule.problem() for rule in rules]

    def _tensor_parallel_rules(self) -> list[RuleError]:
        """Return the rules of tensor parallelism that are broken."""
        tp, model = self.distributed.tp_size, self.model
        hidden = "the FFN's hidden width (see model.multiple_of)"
        counts = [
            ("model.n_heads", "model.n_heads", model.n_heads),
            ("model.multiple_of", hidden, model.ffn_hidden),
            ("data.seq_len", "data.seq_len", self.data.seq_len),
        ]
        if model.kv_heads != model.n_heads:
            counts.insert(1, ("model.n_kv_heads", "model.n_kv_heads", model.kv_heads))
        rules = [
            RuleError(["distributed.tp_size", key], f"= {tp} does not divide {name} = {count}")
            for key, name, count in counts
            if count % tp
        ]
        if tp > 1 and model.weight_tying:
            keys = ["model.weight_tying", "distributed.tp_size"]
            rules.append(RuleError(keys, "not supported with distributed.tp_size > 1"))
        return rules

    def check_processes(self, gpus: int) -> None:
        """Raise ConfigError if the run cannot run on `gpus` processes."""
        problems = self.find_problems(gpus)
        if problems:
            raise ConfigError("run", problems)

    @property
    def held_out_sources(self) -> list[str]:
        """Sources of the held-out text; none without evaluation."""
        if self.eval is None:
            return []
        return list(self.eval.validation.sources or self.data.sources)

    @property
    def sources(self) -> list[str]:
        """Sources that are read: to train on, then those that are only evaluated."""
        return list(dict.fromkeys([*self.data.sources, *self.held_out_sources]))

    def sequences_per_step(self, gpus: int) -> int:
        """Sequences of one optimizer step on `gpus` GPUs; tensor-parallel GPUs share theirs."""
        tp_size = self.distributed.tp_size
        return global_batch(self.data.batch_size, self.grad_acc_steps, gpus, tp_size)

    def tokens_per_step(self, gpus: int) -> int:
        """Tokens of one optimizer step on `gpus` GPUs."""
        return self.sequences_per_step(gpus) * self.data.seq_len

    def to_yaml(self) -> str:
        """The text of run.yaml, with every key."""
        return dump_yaml(self.model_dump(mode="json"))

    def fingerprint(self, gpus: int) -> str:
        """Sixteen hex digits that change with anything a run's results depend on.

        Left out: names and paths. The key of the training data is in run.json as `content`.
        """
        # A key that is added later, at its default, leaves today's fingerprints unchanged.
        values = self.model_dump(
            mode="json", exclude_defaults=True, exclude=self._names_and_paths()
        )
        return digest({**values, "gpus": gpus})

    def results_depend_on(self) -> dict[str, Any]:
        """Return dotted key -> value of what `fingerprint` has."""
        return _dotted(self.model_dump(mode="json", exclude=self._names_and_paths()))

    def _names_and_paths(self) -> dict[str, Any]:
        """Return the keys that no results depend on, for `model_dump`."""
        checkpoint = self.checkpoint
        named = checkpoint is not None and checkpoint.continue_run is not None
        return {
            "dump_dir": True,
            "name": True,
            "gpu_name": True,
            "data": {"root_dir": True, "shards_dir": True, "tokenizer": {"path"}},
            "distributed": {"timeout_s", "compile_cache"},
            "logging": {"wandb", "tensorboard"},
            "checkpoint": {"path", *(["continue_from"] if named else [])},
        }

    def speed_key(self, gpus: int) -> str:
        """Sixteen hex digits; equal only if two runs are expected to have the same speed."""
        return digest(self.speed_settings(gpus))

    def speed_settings(self, gpus: int) -> dict[str, Any]:
        """Return every setting that can change the step time on the same machines.

        Left out: names and paths, the length of the run, what changes only the values of numbers
        (seed, learning rate, without a document mask the training data), and checkpoints and
        evaluations, which are not part of the step time.
        """
        fields = ModelConfig.model_fields
        # Left out at their default, they leave the keys of earlier runs unchanged.
        usual = {key for key in ARCHITECTURE if getattr(self.model, key) == fields[key].default}
        no_options = [] if self.distributed.compile_options else ["compile_options"]
        values = self.model_dump(
            mode="json",
            exclude={
                **dict.fromkeys(("dump_dir", "name", "seed", "steps", "gpu_name", "optim"), True),
                "model": {
                    *("rope_theta", "rope_scaling", "norm_eps", "init_base_std", "init_std_factor"),
                    *("seed", *usual),
                },
                "data": {"root_dir", "sources", "shards_dir", "seed", "tokenizer", "add_eos"},
                "distributed": {
                    *("timeout_s", "compile_cache", "dp_shard", "dp_replicate"),
                    *("activation_checkpointing", "selective_activation_checkpointing"),
                    *no_options,
                },
                # The first wandb keys stay, so that the keys of earlier runs do not change.
                "logging": {"wandb": {*WANDB_PASSED_ON}},
                "checkpoint": True,
                "eval": True,
            },
        )
        if self.device == "cuda":
            del values["distributed"]["threads"]  # a step's operations all run on the GPU
        if self.data.document_mask:
            # Attention skips what the mask hides: the more, the shorter the documents are.
            total = sum(self.data.sources.values())
            shares = {name: weight / total for name, weight in self.data.sources.items()}
            values["documents"] = {"sources": shares, "tokenizer": self.data.tokenizer.name}
        return {
            **values,
            "gpus": gpus,
            "layout": self.distributed.data_parallel(gpus),
            "recompute": self.distributed.ac_mode,
            "vocab_size": self.data.tokenizer.vocab_size,
            "optim": {
                "name": self.optim.name,
                "fused": self.optim.fused,
                "clips": self.optim.clip is not None,
            },
        }

    def trajectory(self, gpus: int) -> str:
        """Sixteen hex digits that change with anything the sequence of losses depends on.

        The losses depend on the global batch, not on how it is split over GPUs, so a run can be
        resumed with another GPU count. Saving, logging and evaluating do not affect them.
        """
        included = {"steps", "seed", "optim", "model"}
        values = self.model_dump(mode="json", exclude_defaults=True, include=included)
        data = self.data.model_dump(mode="json", exclude_defaults=True, exclude=HOW_DATA_IS_READ)
        batch = self.sequences_per_step(gpus)
        dtype = self.distributed.model_dtype
        init = self.checkpoint and self.checkpoint.init_ckpt_path
        settings = {**values, "data": data, "global_batch": batch, "dtype": dtype, "init": init}
        if self.checkpoint and self.checkpoint.continue_from:
            continued = self.checkpoint.continue_run or self.checkpoint.continue_from
            settings["continue_from"] = continued
        return digest(settings | self.distributed.other_formats)

    def settings_of_continued(self) -> dict[str, Any]:
        """Return dotted key -> value of what a run and the one it continues have in common."""
        # The others matter only to the initial weights.
        model = self.model.model_dump(mode="json", exclude={"init_base_std", "init_std_factor"})
        model["n_kv_heads"] = self.model.kv_heads
        model["sliding_window"] = self.model.sliding_window or "all"
        model["rope_scaling"] = model["rope_scaling"] or "none"
        try:
            vocabulary = self.data.tokenizer.vocab_size
        except ConfigError:  # the tokenizer's file is no longer there
            vocabulary = None
        return {
            **{f"model.{key}": value for key, value in model.items()},
            "data.tokenizer.n_words": vocabulary,
            "data.seq_len": self.data.seq_len,
            "the seed of the sampling order": self.order_seed,
            "optim.name": self.optim.name,
        }

    def losses_depend_on(self) -> dict[str, Any]:
        """Return dotted key -> value of what `trajectory` has of model, optimizer and data."""
        included = {"steps", "seed", "optim", "model"}
        values = self.model_dump(mode="json", include=included)
        values["data"] = self.data.model_dump(mode="json", exclude=HOW_DATA_IS_READ)
        return _dotted(values)


def _dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    return {".".join(map(str, path)): value for path, value in flatten(values)}


def global_batch(batch_size: int, grad_acc_steps: int, gpus: int, tp_size: int) -> int:
    """Return the sequences of one optimizer step; tensor-parallel GPUs share theirs."""
    return batch_size * grad_acc_steps * gpus // tp_size


def load_run_config(arguments: Sequence[str]) -> RunConfig:
    """Return the run that a command line names: `config=run.yaml key=value a.b=value ...`.

    Values are read as YAML; later ones override earlier ones, and the file. Raises ConfigError.
    """
    if not arguments:
        raise ConfigError("command line", ["expected config=FILE and any number of key=value"])
    given: dict[str, Any] = {}
    files: list[Document] = []
    for argument in arguments:
        if argument.startswith("config="):
            files.append(load_document(argument.removeprefix("config=")))
        else:
            given = merge(given, nest(*parse_assignment(argument)))
    layers = [*map(Layer.of, reversed(files)), Layer(given, source="command line")]
    return validate(RunConfig, Merged(layers), files[-1].source if files else "command line")


def expand_paths(values: Mapping[str, Any], group: type[Settings] = RunConfig) -> dict[str, Any]:
    """Return some keys of a run.yaml with their paths expanded; what cannot be is left as it is,
    for `RunConfig` to refuse."""
    expanded = dict(values)
    for name, field in group.model_fields.items():
        value, inner = values.get(name), group_in(field.annotation)
        if inner is not None and isinstance(value, Mapping):
            expanded[name] = expand_paths(value, inner)
        elif isinstance(value, str) and is_path(field):
            with contextlib.suppress(ValueError):
                expanded[name] = expand_path(value)
    return expanded


def digest(values: Any) -> str:
    """Return sixteen hex digits of JSON values, independent of the order of keys."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


__all__ = [
    "BYTE_VOCABULARY",
    "ActivationCheckpointing",
    "CheckpointConfig",
    "DataConfig",
    "DistributedConfig",
    "EvalConfig",
    "LoggingConfig",
    "ModelConfig",
    "OptimConfig",
    "RopeScaling",
    "RunConfig",
    "SaveConfig",
    "TokenizerConfig",
    "ValidationConfig",
    "digest",
    "expand_paths",
    "global_batch",
    "load_run_config",
]
