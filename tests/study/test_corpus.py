"""The corpora: the library written here, and FineWeb-Edu from a small hub on the loopback."""

import hashlib
import http.server
import json
import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

import study.corpus
from study.config import CORPORA
from study.corpus import (
    CORPUS_WRITERS,
    CorpusFiles,
    evenly_spaced,
    write_python_stdlib,
    write_python_topics,
)
from tests.waiting import PATIENCE_S
from trainer.problems import ConfigError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FOLDER = "sample/10BT"


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def stdlib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stdlib")
    write_python_stdlib(folder)
    return folder


def test_every_named_corpus_has_a_writer() -> None:
    assert set(CORPUS_WRITERS) == set(CORPORA)


def test_the_library_is_written_in_sorted_order(stdlib: Path) -> None:
    chunks = sorted(stdlib.glob("python_stdlib.chunk.*.jsonl"))
    assert [path.name[-8:] for path in chunks] == [f"{n:02d}.jsonl" for n in range(4)]
    trained = [record["path"] for path in chunks for record in read(path)]
    held_out = [record["path"] for record in read(stdlib / "python_stdlib.val.jsonl")]
    assert trained == sorted(trained) and held_out == sorted(held_out)
    assert not set(trained) & set(held_out)
    assert len(held_out) == (len(trained) + len(held_out)) // 20
    assert not [path for path in trained if re.search(r"(^|/)(tests?|site-packages)/", path)]
    assert len(list(stdlib.iterdir())) == 5


def test_the_library_is_real_text_of_a_bounded_size(stdlib: Path) -> None:
    records = [record for path in stdlib.iterdir() for record in read(path)]
    size = sum(len(record["text"].encode()) for record in records)
    assert 5_000_000 < size <= 10_000_000
    for record in records[::50]:
        assert record["text"] == (Path(os.__file__).parent / record["path"]).read_bytes().decode()


def test_the_library_is_the_same_each_time(stdlib: Path, tmp_path: Path) -> None:
    (tmp_path / "python_stdlib.chunk.07.jsonl").write_text("of an earlier version")
    write_python_stdlib(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in stdlib.iterdir()
    }


def test_sources_in_other_encodings_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "lib"
    (library / "test").mkdir(parents=True)
    (library / "a.py").write_bytes(b"good = 1\r\n")
    (library / "b.py").write_bytes(b"# \xe9\n")
    (library / "test" / "c.py").write_bytes(b"")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(library))
    write_python_stdlib(tmp_path / "out")
    written = [record for path in (tmp_path / "out").iterdir() for record in read(path)]
    assert written == [{"text": "good = 1\r\n", "path": "a.py"}]


def test_the_topics_are_the_texts_of_help(tmp_path: Path) -> None:
    write_python_topics(tmp_path)
    chunk, val = sorted(tmp_path.iterdir())
    trained, held_out = read(chunk), read(val)
    assert [chunk.name, val.name] == ["python_topics.chunk.00.jsonl", "python_topics.val.jsonl"]
    assert {record["topic"]: record["text"] for record in trained + held_out} == topics
    assert len(held_out) == len(topics) // 10 > 0
    assert sum(len(record["text"]) for record in trained) > 300_000


def test_a_python_without_topics_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ConfigError, match="this Python has no help topics"):
        write_python_topics(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("documents", [1, 400])
def test_a_full_disk_is_named_and_leaves_the_folder_unchanged(
    tmp_path: Path, documents: int
) -> None:
    """A file that may not grow: noticed while documents are written, or when the files close."""
    (tmp_path / "s.val.jsonl").write_text("earlier")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(ConfigError) as caught, CorpusFiles(tmp_path, "s", 2) as files:
            for _ in range(documents):
                files.write(0, {"text": "a" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    expected = f"{tmp_path}: 1 problem\n  the corpus cannot be written: File too large"
    assert str(caught.value) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["s.val.jsonl"]
    assert (tmp_path / "s.val.jsonl").read_text() == "earlier"


def test_an_error_leaves_the_folder_unchanged(stdlib: Path, tmp_path: Path) -> None:
    (tmp_path / "s.val.jsonl").write_text("earlier")
    with pytest.raises(ZeroDivisionError), CorpusFiles(tmp_path, "s", 2) as files:
        files.write(0, {"text": "a"})
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["s.val.jsonl"]
    assert (tmp_path / "s.val.jsonl").read_text() == "earlier"


def test_the_val_file_is_renamed_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    replace = Path.replace

    def noted(path: Path, target: Path) -> Path:
        names.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", noted)
    with CorpusFiles(tmp_path, "s", 2):
        pass
    assert names == ["s.chunk.00.jsonl", "s.chunk.01.jsonl", "s.val.jsonl"]


def test_held_out_documents_are_evenly_spaced() -> None:
    assert evenly_spaced(100, 5) == {10, 30, 50, 70, 90}
    assert evenly_spaced(7, 0) == set()
    assert len(evenly_spaced(9_672_101, 10_000)) == 10_000


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="pip install huggingface_hub pyarrow"):
        study.corpus.fetch_fineweb_edu(tmp_path)


class Hub(http.server.ThreadingHTTPServer):
    """The hub's answers about one data set: its files, their digests, their content."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files, self.downloads = files, list[str]()
        self.broken = ""
        """A file whose download ends in the middle, once."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.respond(body=False)

    def do_GET(self) -> None:
        self.respond(body=True)

    def respond(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        repository = study.corpus.FINEWEB_REPOSITORY
        if path.startswith(f"/datasets/{repository}/resolve/{COMMIT}/"):
            self.send_file(path.partition(f"{COMMIT}/")[2], body)
        elif path.startswith(f"/api/datasets/{repository}/revision/"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self.send_json({"id": repository, "sha": COMMIT, "siblings": siblings})
        elif path.startswith(f"/api/datasets/{repository}/tree/{COMMIT}"):
            files = self.server.files.items()
            self.send_json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": etag(content)}
                    for name, content in files
                ]
            )
        else:
            self.send_error(404)

    def send_json(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.start(200, len(content), {"Content-Type": "application/json"})
        self.wfile.write(content)

    def send_file(self, name: str, body: bool) -> None:
        content = self.server.files[name]
        span = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(span[1]) if span else 0
        headers = {"ETag": f'"{etag(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if span:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self.start(206 if span else 200, len(content) - first, headers)
        if not body:
            return
        self.server.downloads.append(f"{name}[{first}:]")
        if self.server.broken == name:
            self.server.broken = ""
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content[first:])

    def start(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def as_parquet(folder: Path, texts: list[str], column: str = "text") -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = folder / "made.parquet"
    table = pyarrow.table({"id": list(range(len(texts))), column: texts})
    parquet.write_table(table, path)
    return path.read_bytes()


TEXTS = [f"document {number}, größer\nthan {number - 1}" for number in range(1000)]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    files = {
        f"{FOLDER}/000_00000.parquet": as_parquet(tmp_path, TEXTS[:600]),
        f"{FOLDER}/001_00000.parquet": as_parquet(tmp_path, TEXTS[600:]),
        "data/not-asked-for.parquet": b"",
        "README.md": b"",
    }
    server = Hub(files)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(hub: Hub, folder: Path) -> subprocess.CompletedProcess[str]:
    """Fetch in a separate process: the hub's package reads HF_ENDPOINT on import."""
    code = (
        "import sys; from study.corpus import CORPUS_WRITERS, ConfigError\n"
        "try: CORPUS_WRITERS['fineweb_edu_10bt_shuffled'](sys.argv[1])\n"
        "except ConfigError as error: sys.exit(str(error))"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = kept | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    return subprocess.run(
        [sys.executable, "-c", code, str(folder / "out")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_fineweb_edu_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.broken = f"{FOLDER}/000_00000.parquet"
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    source = "fineweb_edu_10bt_shuffled"
    chunks = sorted((tmp_path / "out").glob(f"{source}.chunk.*.jsonl"))
    held_out = read(tmp_path / "out" / f"{source}.val.jsonl")
    trained = [read(path) for path in chunks]
    assert len(chunks) == 32 and len(held_out) == 50
    written = [record["text"] for record in (*held_out, *(r for chunk in trained for r in chunk))]
    assert sorted(written) == sorted(TEXTS)  # none lost, none twice
    assert all(10 < len(chunk) < 60 for chunk in trained)
    assert "größer" in chunks[0].read_text(encoding="utf-8")
    asked_for = [f"{FOLDER}/00{number}_00000.parquet" for number in (0, 0, 1)]
    assert sorted(name.partition("[")[0] for name in hub.downloads) == asked_for

    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    hub.downloads.clear()
    assert fetch(hub, tmp_path).returncode == 0
    assert hub.downloads == []  # from the cache
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b""}, "found no files; expected sample/10BT/*.parquet"),
        ({"other": b""}, "found the columns id, body; expected 'text'"),
    ],
)
def test_a_different_layout_is_rejected(
    hub: Hub, tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    if "other" in files:
        files = {f"{FOLDER}/000.parquet": as_parquet(tmp_path, TEXTS, column="body")}
    hub.files = files
    done = fetch(hub, tmp_path)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*"))


def test_a_failed_download_is_reported_in_one_line(hub: Hub, tmp_path: Path) -> None:
    study_name = study.corpus.FINEWEB_REPOSITORY
    hub.RequestHandlerClass = Refusing
    done = fetch(hub, tmp_path)
    assert done.returncode == 1
    assert f"{study_name}: 1 problem\n  download failed: " in done.stderr
    assert "Traceback" not in done.stderr


class Refusing(HubHandler):
    def respond(self, body: bool) -> None:
        self.start(404, 0, {})
