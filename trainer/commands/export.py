"""The command: python -m trainer.commands.export --run FOLDER --output FOLDER

Exports a run as a Hugging Face model: transformers' Llama or, with qk_norm, Qwen3. The rotary
layout is the same, so only the names of the weights change. The output folder appears complete, by
one rename.
"""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from trainer.commands.export_tokenizer import write_json, write_tokenizer
from trainer.commands.trained_weights import check_settings, choose_step, weights_of
from trainer.config import RunConfig, load_run_config
from trainer.files import replace_durably
from trainer.folder.checkpoint_state import CheckpointError, folder_of, of_step
from trainer.folder.described_model import FACTS
from trainer.folder.hub_model import HUB_CONFIG, HUB_KEYS, HUB_MODELS, IMPLIED, hub_model
from trainer.model.weight_names import transformers_name
from trainer.problems import ConfigError
from trainer.records import CONFIG
from trainer.tokens.build_tokenizer import build_tokenizer
from trainer.tokens.tokenizer import Tokenizer


def export(run: Path, output: Path, step: int | None = None, config: Path | None = None) -> int:
    """Export the checkpoint of a step, by default the newest; return its step.

    Raises ConfigError or CheckpointError.
    """
    source = str(config or run / CONFIG)
    settings = load_run_config([f"config={source}"])
    _check(settings, source, output)
    checkpoints = folder_of(settings, run)
    found = choose_step(checkpoints, run, step)
    check_settings(settings, source, run, of_step(checkpoints, found))
    weights = {
        transformers_name(name): weight.contiguous()
        for name, weight in weights_of(checkpoints, found, settings, source).items()
    }
    tokenizer = build_tokenizer(settings.data.tokenizer)
    with _publishing(output) as folder:
        _write_weights(folder, weights)
        write_json(folder / HUB_CONFIG, hub_config(settings, tokenizer))
        write_json(folder / "generation_config.json", _ends(tokenizer))
        loading = write_tokenizer(folder, settings.data, tokenizer)
        (folder / "README.md").write_text(_card(settings, found, loading), encoding="utf-8")
    return found


def hub_config(settings: RunConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the config.json of transformers."""
    model_type = hub_model(settings.model)
    hub = HUB_MODELS[model_type]
    facts = {name: value(settings.model) for name, value in FACTS.items()}
    scaling = facts["rope_scaling"]
    return {
        "architectures": [hub.architecture],
        "model_type": model_type,
        **{key: only for key, only in hub.only.items() if only is not None},
        **{key: facts[name] for name, key in HUB_KEYS.items() if name in facts},
        **({"rope_scaling": scaling} if scaling else {}),
        HUB_KEYS["vocab_size"]: settings.data.tokenizer.vocab_size,
        "max_position_embeddings": settings.data.seq_len,
        **_ends(tokenizer),
        "torch_dtype": "float32",  # that of the master weights
    }


def _ends(tokenizer: Tokenizer) -> dict[str, int]:
    return {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos}


def _check(settings: RunConfig, source: str, output: Path) -> None:
    """Raise ConfigError if the run cannot be exported, or the output folder is in use."""
    window, length = settings.model.sliding_window, settings.data.seq_len
    architecture = HUB_MODELS[hub_model(settings.model)].architecture
    problems = [
        f"model.{name}: found {found}, not supported by transformers' {architecture}; "
        f"expected {supported}"
        for name, supported in IMPLIED.items()
        if (found := FACTS[name](settings.model)) != supported
    ]
    if window is not None and window < length:
        problems.append(
            f"model.sliding_window: found {window}, not supported by transformers' {architecture}; "
            f"expected null, or data.seq_len = {length} or more"
        )
    if problems:
        raise ConfigError(source, problems)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(str(output), ["exists already; expected a new or empty folder"])


def _write_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _card(settings: RunConfig, step: int, loading: str) -> str:
    """Return the README.md of an export."""
    architecture = HUB_MODELS[hub_model(settings.model)].architecture
    bos = "" if settings.data.add_bos else "no "
    eos = "" if settings.data.add_eos else "no "
    return (
        f"# {settings.name}\n\n"
        f"Step {step} of {settings.steps}, for transformers' `{architecture}`, float32. Trained "
        f"on sequences of {settings.data.seq_len} tokens, with {bos}BOS before and {eos}EOS after "
        f"each document.\n\n{loading}\n"
    )


@contextlib.contextmanager
def _publishing(output: Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `output` if the block succeeds.

    Raises ConfigError if it cannot be written.
    """
    temporary = output.absolute().with_name(f".{output.absolute().name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        replace_durably(temporary, output)
    except (OSError, SafetensorError) as error:  # the latter for its file, on a full disk too
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(str(output), [f"cannot be written: {reason}"]) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.commands.export",
        description="Export a run as a Hugging Face model, Llama or Qwen3.",
    )
    parser.add_argument("--run", required=True, type=Path, help="folder of the run")
    parser.add_argument("--output", required=True, type=Path, help="new folder")
    parser.add_argument("--step", type=int, help="step of the checkpoint; the newest by default")
    parser.add_argument("--config", type=Path, help="settings of the run; its run.yaml by default")
    given = parser.parse_args(arguments)
    try:
        step = export(given.run, given.output, given.step, given.config)
    except (ConfigError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{given.output}: step {step} of {given.run}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
