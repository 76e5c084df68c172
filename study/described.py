"""What the descriptions of trainers point at: the templates' texts, and the trainers' versions.

Both become part of the study when it is loaded. Only those of trainers in the grid are read.
"""

import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from study.abilities import unknown_abilities
from study.clones import PATIENCE_S, clone_version
from study.cluster_config import end_lines
from study.config import Study
from study.files import open_text
from study.templates import template_problems
from study.trainer_command import placeholder_problems
from study.trainers import TemplateConfig, TrainerConfig
from trainer.layers import Merged
from trainer.paths import expand_path
from trainer.problems import ConfigError, Problem


def describe_trainers(study: Study, settings: Merged) -> tuple[list[Problem], Study]:
    """Return a study with the templates and versions of the trainers in its grid, and the problems
    with them.

    `settings`: those of the study's files, which say where a description is written.
    """
    problems: list[Problem] = []
    trainers = dict(study.trainers)
    for name in sorted(study.trainers_in_use & trainers.keys()):
        trainer = trainers[name]
        found, template = _read_template(name, trainer, settings)
        told = [*placeholder_problems(name, trainer), *unknown_abilities(name, trainer.cannot)]
        problems += map(settings.trace, [*told, *found])
        if template is not None:
            problems += template_problems(template)
        version = trainer.found_version or find_version(trainer, study.results_dir)
        update = {"config": template, "found_version": version}
        trainers[name] = trainer.model_copy(update=update)
    if trainers == study.trainers:
        return problems, study
    return problems, study.model_copy(update={"trainers": trainers})


def _read_template(
    name: str, trainer: TrainerConfig, settings: Merged
) -> tuple[list[Problem], TemplateConfig | None]:
    """Return a trainer's template with its text; on a problem with its file, without."""
    template = trainer.config
    if template is None or template.text is not None:
        return [], template
    key = ("trainers", name, "config")
    try:
        path = _beside(expand_path(template.file), settings.trace(Problem(key, "")).source)
        with open_text(path) as file:
            return [], TemplateConfig(file=str(path), text=file.read())
    except ConfigError as error:
        message = f"the template {error.source} {error.problems[0].message}"
    except ValueError as error:
        message = str(error)
    return [Problem(key, message)], None


def _beside(file: str, source: str | None) -> Path:
    """Return a path; a relative one is in the folder of the file that names it."""
    if source is None or not Path(source).is_file():
        return Path(file)
    return Path(source).parent / file


def find_version(trainer: TrainerConfig, results: str | None = None) -> str | None:
    """Return the version of a trainer; None if it cannot be found here.

    `results`: the folder of the study's results, which are not part of a clone's version.
    """
    wanted = trainer.version
    if wanted is None:
        return None
    if wanted == "git":
        return clone_version(trainer.workdir or ".", results)
    if wanted.package is not None:
        try:
            return metadata.version(wanted.package)
        except metadata.PackageNotFoundError:
            return None
    assert wanted.command is not None
    lines = [*end_lines(trainer.setup), wanted.command]
    return _printed_by(("bash", "-c", "; ".join(lines)), trainer.workdir)


def _printed_by(command: Iterable[str], workdir: str | None) -> str | None:
    """Return what a command prints; None if it fails, or prints nothing."""
    try:
        done = subprocess.run(
            [*command], cwd=workdir, capture_output=True, text=True, check=True, timeout=PATIENCE_S
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() or None
