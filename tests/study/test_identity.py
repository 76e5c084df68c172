"""The keys of another trainer's runs, of which its rendered config is a part."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from study.cluster_config import ClusterConfig
from study.identity import fingerprint, speed_key
from study.terms import TERMS, Placed
from study.trainers import TrainerConfig
from tests.study.measure.speed_settings import OTHER_SPEED, SAME_SPEED, run_with
from trainer.config import RunConfig

EVERYTHING = "{{ run_config.model_dump_json() }}"
"""A template in which each setting stands."""

CHANGED: dict[str, Any] = {
    "dump_dir": "elsewhere",
    "name": "another",
    "steps": 1000,
    "seed": 7,
    "data.root_dir": "/scratch/data",
    "data.shards_dir": "/scratch/shards",
    "data.sources": {"other": 2.0},
    "data.seed": 3,
    "optim.lr": 1.0,
    "optim.warmup": 3,
    "optim.lr_min_ratio": 0.5,
    "optim.clip": 2.0,
    "optim.weight_decay": 0.2,
    "optim.beta1": 0.8,
    "optim.beta2": 0.9,
    "optim.epsilon": 1e-6,
    "optim.momentum": 0.9,
    "optim.scheduler": "constant",
    "optim.cycle_length": 0.5,
    "optim.cosine_theta": 2.0,
    "optim.decay_fraction": 0.2,
    "optim.exp_factor": 0.6,
    "checkpoint": {"dump": {"every": 10}},
    "eval": {"every": 5},
}
"""Settings that cannot change the speed, in whatever config they stand."""

KEPT = ("gpu_name", "model.", "data.add_eos", "data.tokenizer.", "distributed.", "logging.")
"""Settings that differ between few runs. `RunConfig.speed_settings` leaves out some of them; a
config in which they differ has another key all the same, and counts as another speed."""


def placed(run: RunConfig, template: str = EVERYTHING) -> Placed:
    trainer = {
        "module": "train",
        "config": {"file": "train.yaml", "text": template},
        "arguments": [f"--{name}={{{name}}}" for name in TERMS if name != "run_config"],
        "log": {"format": "lingua", "file": "{run}/metrics.jsonl"},
    }
    cluster = ClusterConfig.model_validate({"gpu_name": "H200", "gpus_per_node": 4})
    return Placed(run, 4, cluster, TrainerConfig.model_validate(trainer))


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and values of settings; `CHANGED` has some groups as a whole."""
    for key, value in values.items():
        if isinstance(value, Mapping) and prefix + key not in CHANGED:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_what_cannot_change_the_speed_is_neutral_in_a_rendered_config() -> None:
    """A setting that `speed_settings` leaves out is among those that are changed here, or kept."""
    run, other = run_with({}), run_with(CHANGED)
    assert speed_key(placed(other)) == speed_key(placed(run))
    assert fingerprint(placed(other)) != fingerprint(placed(run))
    settings = dict(flatten(run.model_dump()))
    assert {key for key, value in flatten(other.model_dump()) if settings[key] != value} == {
        *CHANGED
    }
    left_out = settings.keys() - dict(flatten(run.speed_settings(4))).keys() - OTHER_SPEED.keys()
    assert {key for key in left_out if not key.startswith(KEPT)} == {*CHANGED} - {"optim.clip"}


@pytest.mark.parametrize("key", [key for key in SAME_SPEED if key.startswith(KEPT)])
def test_a_kept_setting_changes_the_key_if_a_template_names_it(key: str) -> None:
    run, other = run_with({}), run_with({key: SAME_SPEED[key]})
    assert speed_key(placed(other)) != speed_key(placed(run))
    assert speed_key(placed(other, "")) == speed_key(placed(run, ""))
