"""Which lists of shards hold what a complete run was trained on."""

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers.models import WordLevel

from study.grid import Grid
from study.jobs.text_changes import REPLACED, TextChanges
from tests.study.conftest import MakeGrid, write_run
from trainer.tokens.shards import main


@pytest.mark.parametrize(
    ("text", "listed", "key", "same"),
    [
        pytest.param(10, 20, "same", True, id="listed after it was written"),
        pytest.param(30, 20, "same", False, id="to be tokenised again"),
        pytest.param(10, 20, "other", False, id="another text"),
        pytest.param(10, None, "same", False, id="not listed yet"),
    ],
)
def test_a_list_holds_what_a_run_was_trained_on(
    tmp_path: Path, make_grid: MakeGrid, text: int, listed: int | None, key: str, same: bool
) -> None:
    """When text and list were written, s; Snakemake trains again unless the list is the same."""
    entry = {"cluster": "here", "model": "tiny", "gpus": 1}
    run = {"data": {"root_dir": str(tmp_path)}}
    grid = make_grid({"corpora": [], "run": run, "grid": [entry]})
    write_run(grid[0], content={"python_stdlib": "same"})
    changes = TextChanges(grid)
    (file,) = changes.lists(grid[0])
    source = tmp_path / "python_stdlib"
    for path, seconds in (
        (source / "python_stdlib.val.jsonl", 5),
        (source / "python_stdlib.chunk.00.jsonl", text),
        (Path(file), listed),
    ):
        if seconds is not None:
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"key": key}))
            os.utime(path, (seconds, seconds))
    assert changes.unchanged(grid[0]) == ({file} if same else set())


def trained_on(root: Path, grid: Grid) -> None:
    """Write text in 2001, tokenise it as the rule does, and write a run on it."""
    source = root / "python_stdlib"
    source.mkdir(parents=True)
    for name, lines in (("val", 3), ("chunk.00", 20)):
        write_text(source / f"python_stdlib.{name}.jsonl", lines)
    (output,) = TextChanges(grid).lists(grid[0])
    command = ["--root-dir", str(root), "--source", "python_stdlib", "--output", output]
    command += ["--shards-dir", str(root / "shards")]
    assert main([*command, *shlex.split(grid.tokenizing_options("python_stdlib"))]) == 0
    key = json.loads(Path(output).read_text())["key"]
    write_run(grid[0], content={"python_stdlib": key})
    Path(grid[0].completed_file).touch()


def write_text(path: Path, lines: int, year: int = 2001) -> None:
    path.write_text("".join(json.dumps({"text": f"line {n}"}) + "\n" for n in range(lines)))
    seconds = (year - 1970) * 365 * 86400
    os.utime(path, (seconds, seconds))


def grid_on(root: Path, make_grid: MakeGrid, tokenizer: Path | None = None) -> Grid:
    data: dict[str, Any] = {"root_dir": str(root)}
    if tokenizer is not None:
        data["tokenizer"] = {"name": "hf", "path": str(tokenizer), "bos": "<s>", "eos": "</s>"}
    entry = {"cluster": "here", "model": "tiny", "gpus": 1}
    return make_grid({"corpora": [], "run": {"data": data}, "grid": [entry]})


@pytest.mark.parametrize("change", ["shorter", "earlier", "a link", "one less", "one more", "none"])
def test_text_files_that_are_no_newer_but_others_are_noticed(
    tmp_path: Path, make_grid: MakeGrid, change: str
) -> None:
    """As `cp -p`, `rsync -a` and links leave them; Snakemake finds no file newer than the list."""
    grid = grid_on(tmp_path / "text", make_grid)
    trained_on(tmp_path / "text", grid)
    source = tmp_path / "text" / "python_stdlib"
    chunk = source / "python_stdlib.chunk.00.jsonl"
    if change == "shorter":
        write_text(chunk, 19)
    elif change == "earlier":
        write_text(chunk, 20, 1999)
    elif change == "one more":
        write_text(chunk.with_name("python_stdlib.chunk.01.jsonl"), 1)
    elif change == "one less":
        chunk.with_name("python_stdlib.val.jsonl").unlink()
    elif change == "a link":
        shutil.copytree(source, tmp_path / "other")  # keeps the times
        shutil.rmtree(source)
        source.symlink_to(tmp_path / "other")
    changes = TextChanges(grid)
    same = change == "none"
    assert changes.outdated == ([] if same else changes.lists(grid[0]))
    assert changes.find_change(grid[0]) == ("" if same else REPLACED)
    assert changes.unchanged(grid[0]) == (set(changes.lists(grid[0])) if same else set())


@pytest.mark.parametrize("what", ["a copy", "another's size", "no text", "an older list"])
def test_copies_are_not_taken_for_other_text(
    tmp_path: Path, make_grid: MakeGrid, what: str
) -> None:
    """In another place the times say nothing; an older version's list does not name its files."""
    trained_on(tmp_path / "text", grid := grid_on(tmp_path / "text", make_grid))
    (listed,) = map(Path, TextChanges(grid).lists(grid[0]))
    copy = tmp_path / "moved" / "copy"
    shutil.copytree(tmp_path / "text", copy, ignore=shutil.ignore_patterns("shards"))
    chunk = copy / "python_stdlib" / "python_stdlib.chunk.00.jsonl"
    write_text(chunk, 19 if what == "another's size" else 20, 2002)
    if what == "no text":
        shutil.rmtree(copy)
    elif what == "an older list":
        content = json.loads(listed.read_text())
        del content["made_of"]
        listed.write_text(json.dumps(content))
        copy = tmp_path / "text"
        write_text(copy / "python_stdlib" / chunk.name, 19)
    moved = grid_on(copy, make_grid)
    replaced = what == "another's size"
    assert TextChanges(moved).outdated == ([str(listed)] if replaced else [])
    assert TextChanges(moved).find_change(moved[0]) == (REPLACED if replaced else "")


def test_another_tokenizer_of_the_same_name_is_noticed(tmp_path: Path, make_grid: MakeGrid) -> None:
    file = tmp_path / "tokenizer.json"
    write_tokenizer(file, ["line", "0"])
    trained_on(tmp_path / "text", grid := grid_on(tmp_path / "text", make_grid, file))
    assert TextChanges(grid).outdated == []
    write_tokenizer(file, ["line", "0", "1"])
    assert TextChanges(grid).outdated == TextChanges(grid).lists(grid[0])


def write_tokenizer(path: Path, words: list[str]) -> None:
    vocabulary = {word: number for number, word in enumerate(["<s>", "</s>", "[UNK]", *words])}
    tokenizers.Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")).save(str(path))
    os.utime(path, (10**9, 10**9))
