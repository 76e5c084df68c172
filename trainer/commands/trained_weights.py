"""The weights of a run's checkpoint, for the commands that use them: export and sample."""

from pathlib import Path

from torch import Tensor

from trainer.config import RunConfig
from trainer.folder import checkpoint
from trainer.folder.checkpoint_state import find_steps, of_step
from trainer.folder.described_model import shape_problems
from trainer.folder.run_file import find_summary
from trainer.folder.run_folder import read_settings
from trainer.model.weight_names import weight_shapes
from trainer.problems import ConfigError
from trainer.records import CONFIG


def check_settings(settings: RunConfig, source: str, run: Path, saved: Path) -> None:
    """Raise ConfigError if settings differ from those that made a checkpoint, in what the losses
    depend on: its own run.yaml, or in older versions the run's."""
    made_by = next((path for path in (saved, run) if (path / CONFIG).exists()), None)
    if made_by is None:
        return
    expected = read_settings(made_by).losses_depend_on()
    found = settings.losses_depend_on()
    problems = [
        f"{key}: found {found.get(key)}; expected {expected.get(key)}, as in {made_by / CONFIG}"
        for key in sorted(found.keys() | expected.keys())
        if found.get(key) != expected.get(key)
    ]
    if problems:
        raise ConfigError(source, problems)


def choose_step(folder: Path, run: Path, wanted: int | None) -> int:
    """Return the step to read; if there is a run.json, of that run's checkpoints only."""
    summary = find_summary(run)
    steps = find_steps(folder, summary.trajectory if summary else None)
    if wanted is None and steps:
        return steps[0]
    if wanted is not None and wanted in steps:
        return wanted
    of_step = "" if wanted is None else f" of step {wanted}"
    found = ", ".join(str(step) for step in sorted(steps)) or "none"
    problem = f"steps: found {found}; expected a complete checkpoint{of_step}"
    raise ConfigError(str(folder), [problem])


def weights_of(folder: Path, step: int, settings: RunConfig, source: str) -> dict[str, Tensor]:
    """Return the weights at a step of a run whose settings are in `source`, under our names.

    Raises CheckpointError, or ConfigError if their shapes are not the settings'.
    """
    path = of_step(folder, step)
    weights = checkpoint.load_weights(path)
    shapes = weight_shapes(settings.model, settings.data.tokenizer.vocab_size)
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if settings.model.weight_tying:
        found.pop("output.weight", None)  # the embedding, under another name
    differences = shape_problems(found, shapes)
    if differences:
        raise ConfigError(source, [f"model: in {path}, {text}" for text in differences])
    return {name: weights[name] for name in shapes}
