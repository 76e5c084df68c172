"""The documents, and the commands in them."""

import re
import shlex
from collections.abc import Iterator

from study.project import PROJECT

DOCUMENTS = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "config" / "README.md",
    *sorted((PROJECT / "docs").glob("*.md")),
]


def fenced(kind: str) -> list[tuple[str, str]]:
    """Return file and text of each block of a language."""
    return [
        (str(path.relative_to(PROJECT)), block)
        for path in DOCUMENTS
        for block in re.findall(rf"^```{kind}\n(.*?)^```", path.read_text(), re.M | re.S)
    ]


def commands() -> Iterator[tuple[str, str]]:
    """Yield file and command: the lines of shell blocks, and whole commands between backticks."""
    for file, block in fenced("bash"):
        if block.startswith("#!"):
            continue  # a script, which test_docs.py runs
        text = ""
        for line in block.replace("\\\n", " ").splitlines():
            text = f"{text}\n{line}".strip()
            try:
                shlex.split(text, comments=True)
            except ValueError:  # a quotation goes on in the next line
                continue
            yield from ((file, part.strip()) for part in _without_comment(text).split(" && "))
            text = ""
    for path in DOCUMENTS:
        prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
        for text in re.findall(r"`((?:snakemake -|python -m |make )[^`]+)`", prose):
            yield str(path.relative_to(PROJECT)), " ".join(text.split())


def _without_comment(text: str) -> str:
    return re.sub(r"(^|\s)#[^\n]*", "", text)


COMMANDS = sorted({(file, text) for file, text in commands() if text})
