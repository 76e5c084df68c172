"""What is fuzzed: each reader with valid inputs for it.

A reader gets the bytes of a file. It may refuse them by a `ConfigError`, as a user sees it, and by
nothing else.
"""

import functools
import json
import math
import random
import tempfile
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from study.analysis.ablations import Difference
from study.analysis.catalogue import read_tables
from study.config import Evidence, Study
from study.estimate.accuracy import LEFT_OUT, Accuracy, read_accuracy
from study.estimate.backtest import score_predictions
from study.estimate.estimate import Estimate, estimate_table
from study.estimate.scored import ScoredPrediction
from study.estimate.time_table import read_estimates
from study.estimate.time_table import to_markdown as time_table
from study.files import to_csv
from study.grid import Cell, Grid, build_cell
from study.jobs.foreign_folder import ForeignFolder
from study.jobs.foreign_job import ForeignJob, read_job
from study.jobs.gpu_watch import GpuWatch
from study.jobs.launch import launch_line, request_line
from study.jobs.log_follower import LineBuffer
from study.law.scaling_law_table import read_losses
from study.load import load_study, load_study_file
from study.measure.entries import Shape, WholeReader
from study.measure.evidence import percentiles, read_evidence
from study.measure.foreign_logs import FORMATS, live_reader, read_steady_steps
from study.measure.measurement import Measurement, read_measurements
from study.measure.run_files import read_run
from study.measure.summaries import is_up_to_date, read_failure, read_summary
from study.measure.throughput import throughput_rows
from study.measure.throughput_row import ThroughputRow, read_rows
from study.measure.throughput_table import to_frame
from study.placements import read_placements
from study.show.document import check_document, markers, update_document
from study.show.plan import find_state, format_placements
from study.trainers import LogConfig, LogFormat
from tests.fuzz.mutate import mutate_bytes, mutate_value
from tests.study.measure.log_lines import GOOD
from trainer.config import load_run_config
from trainer.folder.checkpoint_state import complete, write_state
from trainer.folder.described_model import DescribedModel, of_lingua
from trainer.folder.hub_model import HUB_MODELS, of_transformers
from trainer.folder.owner import read_owner
from trainer.folder.record_file import RecordFile
from trainer.folder.run_file import find_summary
from trainer.json_files import parse_json
from trainer.problems import ConfigError
from trainer.records import EVALUATIONS, METRICS
from trainer.records import SUMMARY as SUMMARY_FILE
from trainer.tokens.shard_folder import read_manifest
from trainer.tokens.text_files import find_text_files
from trainer.vocabulary import vocabulary_size
from trainer.yaml_files import dump_yaml, parse_assignment, parse_yaml

STUDY: dict[str, Any] = {
    "study": "small",
    "models": {"one": {"dim": 32, "n_layers": 1, "n_heads": 2}, "7": {"dim": 64, "n_layers": 2,
               "head_dim": 16, "n_kv_heads": 2, "sliding_window": 16}},
    "clusters": {
        "here": {"device": "cpu", "gpu_name": "CPU", "gpus_per_node": 2},
        "fast": {"gpu_name": "H200", "peak_tflops": 989.5, "gpus_per_node": 8, "setup": ["a"],
                 "scratch": "/scratch/$USER", "slurm": {"partition": "p", "gpu_request": "gres",
                 "runtime_min": "12:00:00", "mem_gib": "auto", "max_nodes": 2}},
    },
    "corpora": ["python_stdlib"],
    "run": {"steps": 40, "optim": {"lr": 1e-3, "warmup": 2}, "checkpoint": {"dump": {"every": 10}},
            "data": {"root_dir": "data", "sources": {"python_stdlib": 1.0}, "batch_size": 8,
                     "seq_len": 64}, "eval": {"validation": {"max_sequences": 4}}},
    "variants": {"v": {"optim": {"lr": 2e-3}, "model": {"weight_tying": True}}},
    "grid": [{"cluster": "here", "model": ["one", 7], "gpus": [1, 2], "variant": ["base", "v"]},
             {"cluster": "fast", "model": "one", "gpus": 8, "global_batch_size": 64, "seed": 3},
             {"cluster": {"any": ["here", "fast"]}, "model": "one", "gpus": 2, "seed": 5}],
    "placements": {"here|fast/one/gpus-2/base/seed-5": "fast"},
    "estimate": {"steps": 100, "horizons": ["10B tokens", "chinchilla"]},
    "budget": {"gpu_hours": 10}, "evaluate": {"tasks": ["hellaswag"], "limit": 10},
    "document": "README.md",
}  # fmt: skip

RUN: dict[str, Any] = {
    "dump_dir": "out", "device": "cpu", "steps": 20, "model": STUDY["models"]["one"],
    **{key: STUDY["run"][key] for key in ("optim", "data", "checkpoint", "eval")},
    "distributed": {"model_dtype": "fp32", "compile_cache": "~/cache", "loss_chunk": "auto"},
    "logging": {"freq": 2, "wandb": {"tags": ["a"]}},
}  # fmt: skip

TRAINER = {
    "trainer": "mine", "version": "1", "config": {"file": "c.yaml", "text": "a: 1"},
    "environment": {"A": "b"}, "log": {"format": "json", "fields": {"step": "n"}},
    "fingerprint": "0123456789abcdef", "params": 10, "tokens_per_step": 100, "steps": 40,
    "gpus": 2, "nodes": 1, "device": "cpu", "saves_every": 20, "choices": {"model_dtype": "bf16"},
}  # fmt: skip

LIVE_FORMATS = [form for form in typing.get_args(LogFormat) if form != "ours"]

RECORD = {
    "global_step": 1, "loss/out": 5.5, "eval/loss": 5.4, "optim/lr": 1e-3,
    "optim/total_tokens": 512,
    "speed/wps": 100.0, "time/elapsed_s": 1.0, "time/step_s": 0.1, "time/interval_steps": 1,
    "attempt": 1,
}  # fmt: skip

SUMMARY = {
    "status": "completed", "outcome": "trained", "params": 20_000, "gpus": 1, "hosts": ["n"],
    "versions": {"python": "3.11.2", "torch": "2.13.0"}, "fingerprint": "0123456789abcdef",
    "choices": {"model_dtype": "fp32", "threads": 1}, "content": {"text": "k"}, "steps_done": 20,
    "attempts": [{"attempt": 1, "start": "2026-01-01T00:00:00+00:00", "wall_s": 5.0,
                  "fingerprint": "0123456789abcdef", "startup": {"total_s": 1.0}}],
}  # fmt: skip

LOGS = tuple(text.encode() for text in GOOD.values())
"""Logs of other trainers, for the study's 1,024 tokens per step on 2 GPUs."""

CSV = (
    b"cluster,model,gpus,batch_size_per_gpu,steps,tokens_per_s_per_gpu,wall_s,by\n"
    b"here,one,1,8,500,230000,60,me\nhere,7,2,4,500,75000,,\n",
    b"# a comment\ncluster,model,gpus,step_ms\nhere,one,2,12.5\n\nfast,one,8,1.5\n",
    b"\xef\xbb\xbfcluster;model;gpus;step_ms\r\nhere;one;2;12.5\r\n",
)

TOKENIZER = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "c"}]}

OWNER = {"id": "0123456789abcdef", "name": "a", "dump_dir": ".."}

LLAMA = {
    "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 256, "vocab_size": 260, "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    },
}  # fmt: skip
"""config.json of a Hugging Face folder."""

LINGUA = {
    "name": "a", "steps": 10,
    "model": {"dim": 32, "n_layers": 1, "n_heads": 2, "rope_theta": 10000.0, "vocab_size": 260},
}  # fmt: skip
"""params.json beside lingua's weights."""

DATASET = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}
"""state.json of a dataset that was saved to disk."""

MANIFEST = {
    "key": "k", "dtype": "<u2", "encoding": {}, "stat": [],
    "train": {"tokens": 0, "documents": 0, "bytes": 0},
    "val": {"tokens": 0, "documents": 0, "bytes": 0},
}  # fmt: skip


@functools.cache
def study() -> Study:
    """Return the valid study."""
    return load_study(STUDY, "study.yaml")


@functools.cache
def grid() -> Grid:
    """Return its grid."""
    return Grid(study())


@dataclass(frozen=True)
class Reader:
    """A reader, and the inputs that it is given."""

    read: Callable[[bytes, Path], Any]
    """Reads a file's content; may use a folder of its own."""
    seeds: Callable[[], Sequence[bytes]]
    """Valid inputs, of whose bytes some are changed."""
    value: Callable[[], Any] | None = None
    """A valid value, of which parts are changed and which is then written by `dump`."""
    dump: Callable[[Any], bytes] = lambda value: json.dumps(value).encode()
    share: int = 1
    """Inputs of this reader for each of a reader with 1."""

    def make(self, draw: random.Random) -> bytes:
        """Return an input."""
        seeds = _seeds(self.seeds)
        if self.value is not None and draw.random() < 0.6:
            return self.dump(mutate_value(self.value(), draw))
        return mutate_bytes(draw.choice(seeds), seeds, draw)


@functools.cache
def _seeds(make: Callable[[], Sequence[bytes]]) -> list[bytes]:
    return list(make())


def _file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _use(grid: Grid) -> None:
    """Do what planning does with a valid study."""
    for cell in grid:
        cell.name.encode(), cell.folder, cell.params, cell.speed_key, cell.nodes, cell.fingerprint
        launch_line(cell.cluster_config, cell.gpus).encode()
        request_line(cell.cluster_config, cell.gpus)
    parse_yaml(grid.study.to_yaml(), "study.yaml")


def read_study(content: bytes, folder: Path) -> None:
    _use(Grid(load_study_file(str(_file(folder, "study.yaml", content)))))


def read_study_values(content: bytes, folder: Path) -> None:
    """Read the values of a study, as JSON, without the reader of YAML, which is slow."""
    try:
        values = parse_json(content)
    except ValueError:
        return
    if isinstance(values, dict):
        _use(Grid(load_study(values, "study.yaml")))


def _table(key: str) -> Callable[[bytes, Path], None]:
    def read(content: bytes, folder: Path) -> None:
        path = _file(folder, f"{key}.yaml", content)
        _use(Grid(load_study({**STUDY, key: str(path)}, "study.yaml")))

    return read


def read_run_config(content: bytes, folder: Path) -> None:
    config = load_run_config([f"config={_file(folder, 'run.yaml', content)}"])
    config.fingerprint(1), config.trajectory(1), config.find_problems(2)
    config.to_yaml().encode()


def read_assignment(content: bytes, folder: Path) -> None:
    parse_assignment(content.decode("utf-8", "surrogateescape"))


def read_records(content: bytes, folder: Path) -> None:
    cell = grid()[0]
    summary = {**SUMMARY, "params": cell.params, "fingerprint": cell.fingerprint}
    _file(folder, "run.json", json.dumps(summary).encode())
    _file(folder, "metrics.jsonl", content)
    _file(folder, "metrics.eval.jsonl", content)
    RecordFile(_file(folder, "again.jsonl", content), 20).close()
    run = read_run(folder)
    assert run is not None and (run.wall_s or 0) >= 0


def read_own_runs(content: bytes, folder: Path) -> None:
    """Make the throughput table of a run whose records are the input."""
    small = Grid(study().model_copy(update={"results_dir": str(folder), "grid": study().grid[:1]}))
    cell = small[0]
    run = Path(cell.folder)
    run.mkdir(parents=True, exist_ok=True)
    summary = {**SUMMARY, "params": cell.params, "fingerprint": cell.fingerprint}
    _file(run, "run.json", json.dumps(summary).encode())
    _file(run, "metrics.jsonl", content)
    to_frame(throughput_rows(small))


def read_run_json(content: bytes, folder: Path) -> None:
    _file(folder, "run.json", content)
    find_summary(folder)
    is_up_to_date(_cell_in(folder))
    find_state(grid()[0], read_summary(folder))


@functools.cache
def _cell_in(folder: Path) -> Cell:
    """Return a cell whose run is in a folder."""
    cell = grid()[0]
    return replace(cell, run=cell.run.model_copy(update={"dump_dir": str(folder)}))


def read_failure_json(content: bytes, folder: Path) -> None:
    _file(folder, "failure.json", content)
    failure = read_failure(folder)
    assert failure is None or failure.message.encode() is not None


def read_evidence_csv(content: bytes, folder: Path) -> None:
    entry = Evidence(file=str(_file(folder, "evidence.csv", content)), format="csv")
    for item in read_evidence(study().model_copy(update={"evidence": (entry,)})):
        assert all(math.isfinite(value) and value >= 0 for value in item.step_s)


def _log(form: str) -> Callable[[bytes, Path], None]:
    def read(content: bytes, folder: Path) -> None:
        steps = read_steady_steps(form, _file(folder, "log", content), _cell_of_log())
        assert all(math.isfinite(value) and value >= 0 for value in percentiles(steps.times_s))
        assert steps.count is None or steps.count > 0

    return read


def _live(form: str) -> Callable[[bytes, Path], None]:
    """Return a reader of a log as the job of another trainer reads it, which refuses nothing."""
    described: dict[str, Any] = {"format": form, "file": "log"}
    described |= {"patterns": LIVE_PATTERNS} if form == "regex" else {}
    described |= {"fields": LIVE_FIELDS} if form == "json" else {}
    job = ForeignJob(
        trainer="t", log=LogConfig.model_validate(described), fingerprint="f", params=1,
        tokens_per_step=1024, steps=40, gpus=2, device="cpu",
    )  # fmt: skip

    def read(content: bytes, folder: Path) -> None:
        for name in (SUMMARY_FILE, METRICS, EVALUATIONS):
            (folder / name).unlink(missing_ok=True)
        files = ForeignFolder(folder, job, (), GpuWatch("cpu", 2), lambda: 5.0)
        reader = live_reader(job.log, Shape(job.tokens_per_step, job.gpus))
        if isinstance(reader, WholeReader):
            files.note(reader.feed(content.decode(errors="replace")))
        else:
            lines = LineBuffer(lambda: 1.0)
            for line in [*lines.feed(content), *lines.close()]:
                files.note(list(reader.feed(*line)))
        files.end("completed", "trained")
        read_run(folder)

    return read


LIVE_PATTERNS = [r"(?:step|iter) *(?P<step>\d+).*?loss:? *(?P<loss>\S+)"]
LIVE_FIELDS = {"step": "global_step", "loss": "loss/out", "step_s": "time/step_s"}


@functools.cache
def _cell_of_log() -> Cell:
    """Return a cell without saves, after which a step of some formats does not count."""
    no_saves = {"checkpoint": {"dump": {"every": 1000}}}
    names = {"cluster": "here", "model": "one", "variant": "base", "trainer": "ours"}
    return build_cell(study(), "evidence[0]", **names, gpus=2, changes=no_saves)


def read_throughput(content: bytes, folder: Path) -> None:
    path = _file(folder, "throughput.csv", content)
    read_rows(path)
    for item in read_measurements(path, grid(), ended=True):
        assert all(math.isfinite(value) for value in item.step_s)


def read_time_table(content: bytes, folder: Path) -> None:
    time_table(read_estimates(_file(folder, "time_estimates.csv", content))).encode()


def read_predicted(content: bytes, folder: Path) -> None:
    estimates_csv = folder / "time_estimates.csv"
    Accuracy([], [], []).write(estimates_csv)
    _file(folder, LEFT_OUT, content)
    for item in read_accuracy(estimates_csv).left_out:
        assert math.isfinite(item.step_ms)


def read_ablations(content: bytes, folder: Path) -> None:
    _file(folder, "ablations.csv", content)
    read_tables("ablations", folder)


def read_document(content: bytes, folder: Path) -> None:
    path = _file(folder, "README.md", content)
    update_document(path, "small", estimates())
    check_document(path, "small", estimates())


def read_state(content: bytes, folder: Path) -> None:
    checkpoint = folder / "0000000001"
    checkpoint.mkdir(exist_ok=True)
    _file(checkpoint, "state.json", content)
    list(complete(folder))


def read_tokenizer(content: bytes, folder: Path) -> None:
    path = _file(folder, "tokenizer.json", content)
    for name in ("hf", "tiktoken"):
        try:
            vocabulary_size.__wrapped__(name, str(path))
        except ConfigError:
            continue


def read_shards(content: bytes, folder: Path) -> None:
    for name in ("train.bin", "val.bin"):
        _file(folder, name, b"")
    _file(folder, "manifest.json", content)
    read_manifest(folder)


def read_predictions(content: bytes, folder: Path) -> None:
    in_folder = study().model_copy(update={"results_dir": str(folder)})
    own = Path(in_folder.folder)
    own.mkdir(exist_ok=True)
    _file(own, "predictions.jsonl", content)
    for item in score_predictions(in_folder, _measurements()):
        assert all(math.isfinite(value) for value in (item.step_ms, item.error))


@functools.cache
def _measurements() -> list[Measurement]:
    """Return a measurement of the run that is predicted."""
    return [
        Measurement(
            cell=grid()[0],
            source="",
            completed=True,
            uninterrupted=True,
            step_s=(0.1, 0.1, 0.1),
            startup_s=None,
            wall_s=None,
            peak_memory_gib=None,
        )
    ]


def read_placements_json(content: bytes, folder: Path) -> None:
    own = folder / "small"
    own.mkdir(exist_ok=True)
    _file(own, "placements.json", content)
    known = read_placements(str(own))
    format_placements(Grid(study(), list(grid()), known)).encode()
    load_study({**STUDY, "results_dir": str(folder)}, "study.yaml")


def read_owner_json(content: bytes, folder: Path) -> None:
    _file(folder, "owner.json", content)
    owner = read_owner(folder)
    if owner is not None:
        owner.is_in(folder, folder)


def _described(read: Callable[[Path], DescribedModel]) -> Callable[[bytes, Path], None]:
    def read_described(content: bytes, folder: Path) -> None:
        described = read(_file(folder, "config.json", content))
        for problem in described.problems(grid()[0].run.model, 260):
            str(problem).encode()

    return read_described


def read_dataset(content: bytes, folder: Path) -> None:
    source = folder / "dataset"
    source.mkdir(exist_ok=True)
    _file(source, "data-00000-of-00001.arrow", b"")
    _file(source, "state.json", content)
    find_text_files(folder, "dataset")


@functools.cache
def estimates() -> list[Estimate]:
    """Return the rows of the time table of the study."""
    return estimate_table(grid(), [])


def _estimates() -> list[bytes]:
    return [to_csv(estimates(), Estimate).encode()]


def _predicted() -> list[bytes]:
    items = [
        ScoredPrediction("here/one", 2.0, 1.0, 4.0, 3.0, -1 / 3, inside) for inside in (True, False)
    ]
    return [to_csv(items, ScoredPrediction).encode()]


def _ablations() -> list[bytes]:
    known = Difference(
        *("base", "one", 9000, "tied", "base", 2, 1.9, -0.1, 0.02, -0.15, -0.05, True, 0.03, 4),
        *("validation loss", ""),
    )
    unknown = replace(known, loss=None, difference=None, exceeds_noise=None, note='a, "b"')
    return [to_csv([known, unknown], Difference).encode()]


def _throughput() -> list[bytes]:
    rows = []
    for cell in grid()[:2]:
        hints = typing.get_type_hints(ThroughputRow)
        samples = {int: 3, float: 1.5, str: "a", bool: True}
        kinds = {name: (typing.get_args(hint) or (hint,))[0] for name, hint in hints.items()}
        values = {name: samples.get(kind, "fp32") for name, kind in kinds.items()}
        rows.append(ThroughputRow(**{**values, **cell.labels, "status": "completed"}))
    return [to_csv(rows, ThroughputRow).encode()]


def _document() -> list[bytes]:
    begin, end = markers("small")
    return [b"# A guide\n\n" + begin + b"\n\n| a | b |\n\n" + end + b"\nrest\n"]


def _state() -> list[bytes]:
    facts = {"step": 1, "trajectory": "t", "kinds": ["dump"], "files": {}, "elapsed_s": 1.0}
    with tempfile.TemporaryDirectory() as name:
        write_state(Path(name), facts)
        return [Path(name, "state.json").read_bytes()]


def _logs() -> list[bytes]:
    return [*LOGS, LOGS[0].decode().encode("utf-16"), *CSV]


def _prediction() -> list[dict[str, Any]]:
    labels = {"cell": grid()[0].name, "fingerprint": grid()[0].fingerprint}
    step = {"step_s": 0.1, "step_s_low": 0.09, "step_s_high": 0.2, "basis": "b", "seconds": 9.0}
    return [{**labels, "predicted": "2026-01-01T00:00:00+00:00", **step}] * 2


def _placements() -> dict[str, Any]:
    prospects = {"here": {"seconds": 9.0, "wait_s": 0.0}, "fast": {"impossible": "full"}}
    made = {"cluster": "here", "decided": "2026-01-01T00:00:00+00:00", "prospects": prospects}
    return {key: {**made, "cluster": name} for key, name in STUDY["placements"].items()}


def _json_lines(value: Any) -> bytes:
    lines = value if isinstance(value, list) else [value]
    return b"".join(json.dumps(item).encode() + b"\n" for item in lines)


def _records() -> list[dict[str, Any]]:
    return [{**RECORD, "global_step": n} for n in (1, 10, 20)]


def warm_up() -> None:
    """Load what readers load on their first use; Arrow's allocator alone reserves a GiB then."""
    to_frame([])
    percentiles([1.0])


READERS: dict[str, Reader] = {
    "study": Reader(read_study, lambda: [dump_yaml(STUDY).encode()], lambda: STUDY),
    "study values": Reader(
        read_study_values, lambda: [json.dumps(STUDY).encode()], lambda: STUDY, share=4
    ),
    "models": Reader(
        _table("models"),
        lambda: [dump_yaml(STUDY["models"]).encode()],
        lambda: STUDY["models"],
    ),
    "clusters": Reader(
        _table("clusters"),
        lambda: [dump_yaml(STUDY["clusters"]).encode()],
        lambda: STUDY["clusters"],
    ),
    "run": Reader(read_run_config, lambda: [dump_yaml(RUN).encode()], lambda: RUN),
    "assignment": Reader(
        read_assignment, lambda: [b"optim.lr=3e-4", b"run={steps: 010, 'x': [yes]}"], share=5
    ),
    "metrics": Reader(
        read_records, lambda: [_json_lines(_records())], _records, _json_lines, share=10
    ),
    "runs": Reader(read_own_runs, lambda: [_json_lines(_records())], _records, _json_lines),
    "run.json": Reader(
        read_run_json, lambda: [json.dumps(SUMMARY).encode()], lambda: SUMMARY, share=30
    ),
    "failure.json": Reader(
        read_failure_json,
        lambda: [b'{"kind": "error", "rank": 0, "retry": true, "message": "lost"}'],
        share=10,
    ),
    "evidence csv": Reader(read_evidence_csv, _logs, share=6),
    **{
        f"evidence {form}": Reader(_log(form), _logs, share=6)
        for form in FORMATS
    },
    **{f"live {form}": Reader(_live(form), _logs, share=2) for form in LIVE_FORMATS},
    "trainer.json": Reader(
        lambda content, folder: read_job(_file(folder, "trainer.json", content).parent),
        lambda: [json.dumps(TRAINER).encode()],
        lambda: TRAINER,
        share=5,
    ),
    "placements.json": Reader(
        read_placements_json, lambda: [json.dumps(_placements()).encode()], _placements
    ),
    "throughput.csv": Reader(read_throughput, _throughput, share=15),
    "time_estimates.csv": Reader(read_time_table, _estimates, share=2),
    "leave_one_out.csv": Reader(read_predicted, _predicted),
    "ablations.csv": Reader(read_ablations, _ablations),
    "predictions": Reader(
        read_predictions, lambda: [_json_lines(_prediction())], _prediction, _json_lines, share=10
    ),
    "losses.csv": Reader(
        lambda content, folder: read_losses(_file(folder, "losses.csv", content)),
        lambda: [
            b"params,tokens,loss\n1e6,1e8,3.5\n2e6,2e8,3.1\n",
            b"params,loss,training_flop\n1,2,3\n",
        ],
        share=30,
    ),
    "document": Reader(read_document, _document, share=5),
    "state.json": Reader(read_state, _state, share=20),
    "owner.json": Reader(
        read_owner_json, lambda: [json.dumps(OWNER).encode()], lambda: OWNER, share=5
    ),
    "config.json": Reader(
        _described(of_transformers),
        lambda: [json.dumps({**LLAMA, "model_type": kind}).encode() for kind in HUB_MODELS],
        lambda: LLAMA,
        share=10,
    ),
    "params.json": Reader(
        _described(of_lingua), lambda: [json.dumps(LINGUA).encode()], lambda: LINGUA, share=10
    ),
    "dataset": Reader(
        read_dataset, lambda: [json.dumps(DATASET).encode()], lambda: DATASET, share=5
    ),
    "tokenizer": Reader(
        read_tokenizer, lambda: [json.dumps(TOKENIZER).encode(), b"YQ== 0\nYg== 1\n"],
        lambda: TOKENIZER, share=15,
    ),
    "manifest": Reader(
        read_shards, lambda: [json.dumps(MANIFEST).encode()], lambda: MANIFEST, share=15
    ),
}  # fmt: skip
"""Name -> reader."""
