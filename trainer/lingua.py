"""lingua's config files: what in them asks for nothing here, and what is refused as a whole.

lingua is facebookresearch/lingua; its keys were read at commit 437d680. Keys with its meaning have
its names in `trainer/config.py` and the files of its groups; docs/from_lingua.md lists the
differences that change numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any

from trainer.problems import RuleError

RECURRENT = (
    *("conv_size", "state_dim", "n_groups", "dt_bias", "D_has_head_dim", "init_args"),
    *("learnable_init_states", "ssm_chunk_size", "init_use_depth", "lru_dim_multiplier"),
)
HIERARCHICAL = ("dimensions", "residuals", "lambda_level", "pooling_type")

FAMILIES = {
    **dict.fromkeys(RECURRENT, "recurrent models (mamba, hawk, minGRU, minLSTM)"),
    **dict.fromkeys(HIERARCHICAL, "hierarchical models (AUNet)"),
    "n_future_head": "models with several heads (multi-token prediction)",
}
"""Key of `model` that only other families of models have -> the family."""

ONLY = "only the Llama decoder, lingua's apps/main, can be trained here"

EVALUATION_JOB = ("ckpt_dir", "harness", "generator", "tasks", "validation")
"""Keys of the config of lingua's evaluation job."""

ENVIRONMENT = {
    "MKL_SERVICE_FORCE_INTEL": "GNU",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ENABLE_INTRA_NODE_COMM": "1",
    "TORCH_NCCL_AVOID_RECORD_STREAMS": "1",
    "NCCL_IB_TIMEOUT": "22",
    "NCCL_DEBUG": "INFO",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
}
"""lingua's defaults of `env`, which it writes into every config.yaml of a run."""


def equals(*wanted: Any) -> Callable[[Any], bool]:
    """Return a test for one of the wanted values, of the same type."""
    return lambda value: any(type(value) is type(one) and value == one for one in wanted)


def is_count(value: Any) -> bool:
    """Say whether a value is an integer of at least 1."""
    return type(value) is int and value >= 1


def is_default_environment(value: Any) -> bool:
    """Say whether `env` has nothing but lingua's defaults."""
    return isinstance(value, Mapping) and all(
        str(text) == ENVIRONMENT.get(name) for name, text in value.items()
    )


def names_no_tasks(harness: Any) -> bool:
    """Say whether `eval.harness` asks for no task."""
    return isinstance(harness, Mapping) and not harness.get("tasks")


def refused_families() -> dict[str, str]:
    """Return the keys of `model` of other families -> why they are unsupported."""
    return {key: f"a key of lingua's {family}; {ONLY}" for key, family in FAMILIES.items()}


def translate(values: Mapping[str, Any], byte_vocabulary: int) -> dict[str, Any]:
    """Return a run's settings without the keys that ask for nothing, given the other keys.

    `byte_vocabulary` is the number of token ids of `bytes`. Raises RuleError for a model of another
    family or the config of an evaluation job: one line instead of one for each of their keys.
    """
    found = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()
    }
    _check_family(found)
    _check_job(found)
    _drop_sizes(_group(found, "model"), _group(found, "data"), byte_vocabulary)
    if found.get("grad_acc_steps", 1) == 1 and is_count(_group(found, "logging").get("acc_freq")):
        del found["logging"]["acc_freq"]  # all micro-batches are a step's last
    _drop_evaluation_job(found)
    return found


def _check_family(found: Mapping[str, Any]) -> None:
    if isinstance(found.get("model_type"), str):
        raise RuleError(["model_type"], f"found lingua's '{found['model_type']}'; {ONLY}")
    model = _group(found, "model")
    for key, reason in refused_families().items():
        if key in model and model[key] is not None and (key, model[key]) != ("n_future_head", 1):
            raise RuleError([f"model.{key}"], reason)


def _check_job(found: Mapping[str, Any]) -> None:
    keys = [key for key in EVALUATION_JOB if key in found]
    if keys and "model" not in found:
        message = "found the config of lingua's evaluation job; here runs are exported and then"
        raise RuleError(keys, f"{message} evaluated, see docs/from_lingua.md")


def _drop_sizes(model: dict[str, Any], data: dict[str, Any], byte_vocabulary: int) -> None:
    """Drop the two sizes that lingua fills in; a vocabulary's becomes the tokenizer's."""
    if is_count(model.get("max_seqlen")) and model["max_seqlen"] == data.get("seq_len"):
        del model["max_seqlen"]
    if not is_count(model.get("vocab_size")):
        return
    tokenizer = _group(data, "tokenizer")
    is_bytes = tokenizer.get("name", "bytes") == "bytes"
    known = tokenizer.get("n_words") or (byte_vocabulary if is_bytes else None)
    if known is None:
        data["tokenizer"] = {**tokenizer, "n_words": model["vocab_size"]}
    if known in (None, model["vocab_size"]):
        del model["vocab_size"]


def _drop_evaluation_job(found: dict[str, Any]) -> None:
    """Reduce lingua's evaluation during training to the one key that decides about the others."""
    evaluation = _group(found, "eval")
    harness = evaluation.get("harness")
    has_tasks = harness is not None and not names_no_tasks(harness)
    if has_tasks:
        for key in ("generator", "validation", "dataset_dir"):
            evaluation.pop(key, None)
    if has_tasks or found.get("eval") is None:
        found.pop("async_eval_gpus", None)
    validation = evaluation.get("validation")
    if isinstance(validation, Mapping) and validation.get("max_steps", 0) is None:
        evaluation["validation"] = {"max_sequences": None, **validation}  # the whole file


def _group(found: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a group of settings; an empty one if it is missing or not a mapping."""
    value = found.get(key)
    return value if isinstance(value, dict) else {}
