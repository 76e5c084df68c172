"""The model that a folder of weights describes: params.json, run.yaml, or see hub_model.py.

Tensors do not tell how their rows divide into heads, the base of the rotary embedding, or epsilon.
Imports no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import ModelConfig, RopeScaling
from trainer.json_files import parse_json
from trainer.model.weight_names import Shape
from trainer.problems import ConfigError, Problem, unreadable
from trainer.settings import validate
from trainer.tokens.build_tokenizer import is_padding

PARAMS = "params.json"
"""The settings of a run of lingua, beside its weights."""

PADDED_TO = "data.tokenizer.n_words"

FACTS: dict[str, Callable[[ModelConfig], Any]] = {
    "dim": lambda model: model.dim,
    "n_layers": lambda model: model.n_layers,
    "n_heads": lambda model: model.n_heads,
    "n_kv_heads": lambda model: model.kv_heads,
    "head_dim": lambda model: model.head_dim,
    "ffn_hidden": lambda model: model.ffn_hidden,
    "rope_theta": lambda model: model.rope_theta,
    "norm_eps": lambda model: model.norm_eps,
    "weight_tying": lambda model: model.weight_tying,
    "rope_scaling": lambda model: scaling_of(model.rope_scaling),
    "qk_norm": lambda model: model.qk_norm,
    "norm_type": lambda model: model.norm_type,
    "activation": lambda model: model.activation,
    "pos_embed": lambda model: model.pos_embed,
}
"""What must be equal: name -> its value in a model."""

OUR_KEYS = {name: f"model.{name}" for name in FACTS} | {
    "ffn_hidden": "model.ffn_dim_multiplier and multiple_of",
    "vocab_size": "data.tokenizer",
}


@dataclass(frozen=True)
class DescribedModel:
    """What a file says about a model."""

    file: str
    values: Mapping[str, Any]
    """Name in `FACTS`, or vocab_size, -> value; what is left out is unknown."""
    keys: Mapping[str, str]
    """The same names -> keys in the file."""
    model_type: str | None = None
    """Kind of a model of transformers; keys that are model_type are about what it implies."""

    def problems(self, model: ModelConfig, vocab_size: int) -> list[Problem]:
        """Return where a run's model differs."""
        expected = {name: value(model) for name, value in FACTS.items()}
        expected["vocab_size"] = vocab_size
        return [
            self._problem(name, self.values[name], wanted)
            for name, wanted in expected.items()
            if name in self.values and self.values[name] != wanted
        ]

    def _problem(self, name: str, found: Any, expected: Any) -> Problem:
        hint = ""
        if name == "vocab_size" and is_padding(expected, found):
            hint = f"; {PADDED_TO}: {found} pads the run's vocabulary"
        what = "the FFN's hidden width by " if name == "ffn_hidden" else ""
        implied = self.keys[name] == "model_type"
        text = f"{self.model_type!r}, which has {name} = {found!r}" if implied else repr(found)
        message = f"found {text}; expected {expected!r}, {what}the run's {OUR_KEYS[name]}{hint}"
        return Problem((self.keys[name],), message)


def scaling_of(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """Return a scaling as in config.json."""
    return None if scaling is None else scaling.model_dump(exclude_none=True)


def of_lingua(file: Path) -> DescribedModel:
    """Read lingua's params.json. Raises ConfigError."""
    values = read_json(file).get("model", {})
    found = of_model(values, str(file))
    vocab_size = values.get("vocab_size")
    if not isinstance(vocab_size, int) or vocab_size < 1:  # lingua's -1: the tokenizer's
        return found
    known = {**found.values, "vocab_size": vocab_size}
    return DescribedModel(found.file, known, {**found.keys, "vocab_size": "model.vocab_size"})


def of_model(values: Any, file: str) -> DescribedModel:
    """Read the shape in one of our files, or in lingua's. Raises ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(file, [Problem(("model",), f"found {values!r}; expected a mapping")])
    known = {key: value for key, value in values.items() if key in ModelConfig.model_fields}
    try:
        model = validate(ModelConfig, known, file)
    except ConfigError as error:
        problems = [Problem(("model", *item.path), item.message) for item in error.problems]
        raise ConfigError(file, problems) from None
    keys = {name: f"model.{name}" for name in FACTS}
    keys["ffn_hidden"] = "model.ffn_dim_multiplier, multiple_of"
    return DescribedModel(file, {name: value(model) for name, value in FACTS.items()}, keys)


def read_json(file: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file. Raises ConfigError."""
    try:
        values = parse_json(file.read_bytes())
    except OSError as error:
        raise unreadable(file, error) from None
    except ValueError as error:
        raise ConfigError(str(file), [f"cannot be read as JSON: {error}"]) from None
    if not isinstance(values, dict):
        raise ConfigError(str(file), [f"found a {type(values).__name__}; expected a mapping"])
    return values


def shape_problems(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> list[str]:
    """Return how the shapes of tensors differ: at most a line for each kind of difference."""
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    others = [name for name in expected if name in found and found[name] != expected[name]]
    problems = []
    if missing:
        problems.append(f"found no {missing[0]}{_more(missing)}; expected {expected[missing[0]]}")
    if unknown:
        problems.append(f"found {unknown[0]}{_more(unknown)}; expected no such weight")
    if others:
        first = others[0]
        problems.append(f"{first}: found {found[first]}; expected {expected[first]}{_more(others)}")
    return problems


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
