"""The weights that a run starts from, if not drawn: `checkpoint.init_ckpt_path`.

Accepted are a run's folder, a checkpoint or a folder of them; an export, or any Llama or Qwen3 of
Hugging Face (config.json and safetensors); and lingua's checkpoints, with params.json beside the
shards or consolidated.pth. They are checked against the run's model before anything is loaded.
Optimizer state is never taken over.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trainer.collectives import found_by_main
from trainer.config import ModelConfig, RunConfig
from trainer.folder.checkpoint_state import (
    CONSOLIDATED,
    METADATA,
    STATE,
    CheckpointError,
    check_intact,
    complete,
    entries,
    folder_of,
)
from trainer.folder.described_model import (
    PARAMS,
    DescribedModel,
    of_lingua,
    of_model,
    shape_problems,
)
from trainer.folder.hub_model import HUB_CONFIG, of_transformers
from trainer.folder.run_folder import RUN_FILES, read_settings, saved_by
from trainer.model.model import Transformer
from trainer.model.weight_names import weight_shapes
from trainer.problems import ConfigError, unreadable
from trainer.records import CHECKPOINTS, CONFIG
from trainer.world import World

if TYPE_CHECKING:
    from trainer.folder.weight_files import WeightFiles

# trainer.folder.weight_files is imported on use.

KEY = "checkpoint.init_ckpt_path"

Kind = Literal["ours", "transformers", "lingua", "consolidated"]

MARKS: dict[Kind, tuple[str, ...]] = {
    "ours": (STATE,),
    "transformers": (HUB_CONFIG,),
    "lingua": (METADATA, PARAMS),
    "consolidated": (CONSOLIDATED,),
}
"""Kind of folder -> the files that tell it."""

EXPECTED = (
    "expected a run, a checkpoint (.metadata and state.json), a Hugging Face Llama or Qwen3 "
    "(config.json and model.safetensors) or a checkpoint of lingua (params.json, and .metadata or "
    "consolidated.pth)"
)

DERIVED = re.compile(r"rotary_emb\.inv_freq$|^rope_embeddings\.|^output\.tied_module\.weight$")
"""Names of tensors that older files contain, and that follow from others."""


@dataclass(frozen=True)
class InitialWeights:
    """A folder of weights."""

    kind: Kind
    path: Path

    def check(self, model: ModelConfig, vocab_size: int) -> None:
        """Raise ConfigError if they do not fit a model: heads, rotary base, epsilon, shapes.

        Or if they are a checkpoint of ours that is damaged.
        """
        described = self._describe()
        if described is not None:
            problems = described.problems(model, vocab_size)
            if problems:
                raise ConfigError(described.file, problems)
        files = self._open(model)
        expected = {
            files.name(name): shape for name, shape in weight_shapes(model, vocab_size).items()
        }
        tied = {files.name("output.weight")} if model.weight_tying else set()
        found = {
            name: shape
            for name, shape in files.shapes.items()
            if name not in tied and not DERIVED.search(name)
        }
        differences = shape_problems(found, expected)
        if differences:
            raise ConfigError(str(self.path), differences)
        if self.kind == "ours":
            with self._refusing():
                check_intact(self.path)

    def load(self, model: Transformer) -> None:
        """Load them into a model in any layout. Raises ConfigError if they cannot be read."""
        files = self._open(model.config)
        with self._refusing():
            files.load(model.state_dict())

    def _describe(self) -> DescribedModel | None:
        if self.kind == "transformers":
            return of_transformers(self.path / HUB_CONFIG)
        return _describe_run(self.path) if self.kind == "ours" else of_lingua(self.path / PARAMS)

    def _open(self, model: ModelConfig) -> "WeightFiles":
        from trainer.folder import weight_files

        with self._refusing():
            if self.kind == "transformers":
                return weight_files.SafetensorsFolder(self.path)
            if self.kind == "consolidated":
                return weight_files.ConsolidatedFile(self.path, model.head_dim)
            if self.kind == "lingua":
                return weight_files.LinguaCheckpoint(self.path, model.head_dim)
            return weight_files.OurCheckpoint(self.path)

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """Raise ConfigError instead of CheckpointError."""
        try:
            yield
        except CheckpointError as error:
            raise ConfigError(str(self.path), [f"{KEY}: {error}"]) from None


def choose(config: RunConfig, world: World) -> InitialWeights | None:
    """Return the weights that a run names, checked; None if it names none. All ranks call it.

    Raises ConfigError on rank 0; the others exit with code 1.
    """
    path = config.checkpoint and config.checkpoint.init_ckpt_path
    if not path:
        return None
    return found_by_main(lambda: _find_checked(Path(path), config), world)


def _find_checked(path: Path, config: RunConfig) -> InitialWeights:
    """Return the weights at a path. Raises ConfigError if the run cannot start from them."""
    run = Path(config.dump_dir)
    own = [folder_of(config, run), *(run / name for name in RUN_FILES)]
    try:
        chosen = find(path)
        if any(chosen.path.resolve().is_relative_to(folder.resolve()) for folder in own):
            problem = f"{KEY}: is in this run's own folder, whose files a new run moves aside"
            expected = "another folder, or another dump_dir"
            raise ConfigError(str(path), [f"{problem}; expected {expected}"])
        chosen.check(config.model, config.data.tokenizer.vocab_size)
    except OSError as error:
        raise unreadable(path, error, f"{KEY}: ") from None
    return chosen


def find(path: Path) -> InitialWeights:
    """Return the weights in a folder: of several checkpoints the newest. Raises ConfigError."""
    if path.name == CONSOLIDATED and path.is_file():
        path = path.parent
    for kind, marks in MARKS.items():
        if all((path / mark).exists() for mark in marks):
            return InitialWeights(kind, path)
    folder, trajectory = path, None
    if (path / CONFIG).exists():
        folder, trajectory = saved_by(path)
    elif (path / CHECKPOINTS).is_dir():  # lingua's name too
        folder = path / CHECKPOINTS
    newest = _newest(folder, trajectory)
    if newest is None:
        raise ConfigError(str(path), [f"{KEY}: found no checkpoint; {EXPECTED}"])
    return newest


def _newest(folder: Path, trajectory: str | None) -> InitialWeights | None:
    """Return the newest complete checkpoint in a folder; if given, of one trajectory only."""
    if any(folder.glob(f"[0-9]*/{STATE}")):
        for path, _ in complete(folder, trajectory):
            return InitialWeights("ours", path)
    for path in entries(folder):
        if all((path / mark).exists() for mark in MARKS["lingua"]):
            return InitialWeights("lingua", path)
    return None


def _describe_run(path: Path) -> DescribedModel | None:
    """Return the model of a checkpoint of ours; None, with a warning, if no run.yaml tells it."""
    # Older checkpoints are without, but in the run's folder.
    for folder in (path, path.absolute().parent.parent):
        if (folder / CONFIG).exists():
            model = read_settings(folder).model
            return of_model(model.model_dump(), str(folder / CONFIG))
    print(f"warning: {path}: no {CONFIG} tells heads and rope_theta; only shapes are checked")
    return None
