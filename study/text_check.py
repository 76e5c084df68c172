"""The problems with the text of runs: sources without files, names that Snakemake misreads."""

from pathlib import Path
from stat import S_ISDIR

from study.config import CORPORA, Study
from study.value_types import brace_in
from trainer.config import RunConfig
from trainer.problems import ConfigError, KeyPath, Problem
from trainer.tokens.text_files import HELD_OUT_FILES, TextFiles, find_text_files


class Texts:
    """The text files of sources, listed once for all cells of a study."""

    def __init__(self, study: Study) -> None:
        self._corpora = study.corpora
        self._found: dict[tuple[str, str], TextFiles | str | None] = {}

    def problems(self, run: RunConfig) -> list[Problem]:
        """Return the problems with the text of a run's sources.

        The validation loss needs held-out text in one of the sources.
        """
        root = run.data.root_dir
        held_out, given = run.held_out_sources, _keys_of_sources(run)
        problems, has_held_out = [], any(source in self._corpora for source in held_out)
        for key, source in given.items():
            files = self._find(root, source)
            if isinstance(files, str):
                problems.append(Problem(key, files))
            elif files is not None:
                has_held_out |= bool(files.held_out) and source in held_out
        if run.eval is not None and not problems and not has_held_out:
            folders = ", ".join(f"{root}/{source}" for source in held_out)
            expected = f"expected {HELD_OUT_FILES} there, or eval: null"
            problems.append(Problem(("eval",), f"found no held-out text in {folders}; {expected}"))
        return problems

    def _find(self, root: str, source: str) -> TextFiles | str | None:
        """Return the text files of a source, or what is wrong with them; None for a source that a
        rule creates if it can."""
        if (root, source) not in self._found:
            made = source in self._corpora
            found = what_blocks(Path(root, source)) if made else _list_texts(root, source)
            self._found[root, source] = found
        return self._found[root, source]


def what_blocks(folder: Path) -> str | None:
    """Return what is in the place of a folder, or of one above it, and is none; None if nothing."""
    for path in (folder, *folder.parents):
        try:
            if S_ISDIR(path.stat().st_mode):
                return None
            found = "a file"
        except (FileNotFoundError, NotADirectoryError):
            if not path.is_symlink():
                continue
            found = f"a link to {path.readlink()}, which does not exist"
        except OSError:  # another user's; what may be written is checked before the first job
            return None
        return f"{path} is {found}; expected a folder"
    return None


def _keys_of_sources(run: RunConfig) -> dict[KeyPath, str]:
    """Return the key that names each source that a run reads -> its name."""
    keys: dict[KeyPath, str] = {("data", "sources", source): source for source in run.data.sources}
    for index, source in enumerate(run.held_out_sources):
        if source not in run.data.sources:
            keys["eval", "validation", "sources", index] = source
    return keys


def _list_texts(root: str, source: str) -> TextFiles | str:
    if not _may_be_folder(Path(root, source)):
        expected = "expected *.chunk.*.jsonl files there"
        expected += f", or '{source}' among corpora" if source in CORPORA else ""
        return f"the folder {root}/{source} does not exist; {expected}"
    try:
        return find_text_files(Path(root), source)
    except ConfigError as error:
        return f"{error.source}: {error.problems[0].message}"


def _may_be_folder(path: Path) -> bool:
    """Return whether a path is a folder; true also if that cannot be found out."""
    try:
        return path.is_dir()
    except OSError:  # too long, or in a folder that may not be searched: reading it says so
        return True


def find_wildcards(run: RunConfig) -> list[Problem]:
    """Return a problem for each path of a run's data that Snakemake would read as a pattern."""
    paths = _keys_of_sources(run)
    paths[("data", "root_dir")] = run.data.root_dir
    paths[("data", "tokenizer", "path")] = run.data.tokenizer.path or ""
    return [Problem(key, error) for key, path in paths.items() if (error := brace_in(path))]
