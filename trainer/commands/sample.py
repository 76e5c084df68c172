"""The command: python -m trainer.commands.sample --run FOLDER --prompt TEXT

Continues a text with a run's newest checkpoint, whether the run is completed or not, and prints the
whole. The text ends where the model ends the document, or after `--max-tokens`.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trainer.commands.trained_weights import choose_step, weights_of
from trainer.config import RunConfig
from trainer.folder.checkpoint_state import CheckpointError, folder_of
from trainer.folder.run_folder import read_settings
from trainer.model.generation import generate, make_choice
from trainer.model.model import Transformer
from trainer.problems import ConfigError
from trainer.records import CONFIG
from trainer.tokens.build_tokenizer import build_tokenizer
from trainer.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sampling:
    """How a text is continued."""

    max_tokens: int = 128
    """Most tokens after the prompt."""
    temperature: float = 0.0
    """Divides the logits; 0: always the likeliest token."""
    top_k: int | None = None
    """Draw from this many of the likeliest tokens only; None: from all."""
    seed: int = 0
    """Seed of the draws."""


def sample(
    run: Path,
    prompt: str,
    sampling: Sampling | None = None,
    step: int | None = None,
    device: str = "cpu",
) -> str:
    """Return a prompt and its continuation by a run's checkpoint, by default the newest.

    Raises ConfigError or CheckpointError.
    """
    sampling = sampling or Sampling()
    source = str(run / CONFIG)
    settings = read_settings(run)
    tokenizer = build_tokenizer(settings.data.tokenizer)
    tokens = _first_tokens(prompt, settings, tokenizer)
    checkpoints = folder_of(settings, run)
    weights = weights_of(checkpoints, choose_step(checkpoints, run, step), settings, source)
    model = Transformer(
        settings.model,
        settings.data.tokenizer.vocab_size,
        len(tokens) + sampling.max_tokens,
        fused=False,
    )
    model.load_state_dict(weights)
    choose = make_choice(tokenizer.vocab_size, sampling.temperature, sampling.top_k, sampling.seed)
    made = generate(
        model.to(device).eval(), tokens, sampling.max_tokens, choose, {tokenizer.bos, tokenizer.eos}
    )
    return prompt + _continuation(tokenizer, tokens, list(made))


def _first_tokens(prompt: str, settings: RunConfig, tokenizer: Tokenizer) -> list[int]:
    """Return the prompt's tokens, as those of a document's beginning."""
    tokens = [int(token) for token in tokenizer.encode(prompt)]
    if settings.data.add_bos:
        tokens = [tokenizer.bos, *tokens]
    if not tokens:
        problem = "found no tokens; expected one or more, since the run has data.add_bos: false"
        raise ConfigError("prompt", [problem])
    return tokens


def _continuation(tokenizer: Tokenizer, before: list[int], made: list[int]) -> str:
    """Return the text of tokens after others; some tokenizers drop a space at the beginning."""
    prefix = tokenizer.decode(np.array(before, np.uint32))
    whole = tokenizer.decode(np.array(before + made, np.uint32))
    if whole.startswith(prefix):
        return whole[len(prefix) :]
    return tokenizer.decode(np.array(made, np.uint32))


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.commands.sample",
        description="Continue a text with a run's model.",
    )
    parser.add_argument("--run", required=True, type=Path, help="folder of the run")
    parser.add_argument("--prompt", required=True, help="text to continue; may be empty")
    parser.add_argument("--step", type=int, help="step of the checkpoint; the newest by default")
    parser.add_argument(
        "--max-tokens",
        type=_count,
        default=Sampling.max_tokens,
        help="most tokens to add (%(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=Sampling.temperature,
        help="0, the default: always the likeliest token; else draw, less likely ones the more",
    )
    parser.add_argument("--top-k", type=_count, help="draw from the K likeliest tokens only")
    parser.add_argument(
        "--seed", type=_seed, default=Sampling.seed, help="seed of the draws (%(default)s)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda if there is one")
    given = parser.parse_args(arguments)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    sampling = Sampling(given.max_tokens, given.temperature, given.top_k, given.seed)
    try:
        _check(given, found)
        text = sample(given.run, given.prompt, sampling, given.step, given.device or found)
    except (ConfigError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 1
    print(text)
    return 0


def _check(given: argparse.Namespace, found: str) -> None:
    """Raise ConfigError if options do not fit together, or this machine."""
    if given.top_k is not None and given.temperature == 0:
        raise ConfigError("command line", ["--top-k: nothing is drawn; expected a --temperature"])
    if given.device == "cuda" and found != "cuda":
        raise ConfigError("command line", ["--device: torch finds no GPU here; expected cpu"])


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}; expected 1 or more")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not -(2**63) <= value < 2**64:
        raise argparse.ArgumentTypeError(f"found {text}; expected a 64-bit number")
    return value


def _temperature(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"found {text}; expected 0 or more")
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
