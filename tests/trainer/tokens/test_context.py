"""The mean context of packed documents against the mask that the model applies, counted."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.conftest import Runs, read_records
from trainer.config import DataConfig
from trainer.flops import mean_context
from trainer.model.masks import DocumentBorder, attention_mask
from trainer.tokens import context
from trainer.tokens.context import documents_context, first_inputs
from trainer.tokens.data import BatchLoader
from trainer.tokens.shards import Part, Shards

BORDER = 9


def count_mask(tokens: np.ndarray, window: int | None, border: DocumentBorder) -> float:
    """Return the keys of a token on average, entry by entry of the mask.

    A token that sees the first of its document sees half of itself, as in mean_context: there the
    mask is a triangle, and its area is counted.
    """
    mask = attention_mask(torch.from_numpy(tokens), window, border)
    assert mask is not None
    keys = 0.0
    for sequence, seen in zip(tokens.tolist(), mask[:, 0].numpy(), strict=True):
        first = 0
        for place, token in enumerate(sequence):
            before = sequence[place - 1] if place else None
            if (token if border.opens else before) == border.token:
                first = place
            keys += seen[place].sum() - 0.5 * seen[place, first]
    return keys / tokens.size


@given(
    tokens=st.tuples(st.integers(1, 3), st.integers(1, 24)).flatmap(
        lambda shape: st.lists(
            st.lists(st.sampled_from([1, 2, BORDER]), min_size=shape[1], max_size=shape[1]),
            min_size=shape[0],
            max_size=shape[0],
        )
    ),
    opens=st.booleans(),
    window=st.none() | st.integers(1, 30),
)
@settings(max_examples=300)
def test_the_context_matches_the_area_of_the_models_mask(
    tokens: list[list[int]], opens: bool, window: int | None
) -> None:
    array = np.array(tokens)
    found = documents_context(array, BORDER, opens, window)
    assert found == pytest.approx(count_mask(array, window, DocumentBorder(BORDER, opens)))
    at_most = 1 + 1e-12  # but for rounding
    assert 0 < found <= mean_context(array.shape[1], window) * at_most
    wider = None if window is None else window + 1
    assert found <= documents_context(array, BORDER, opens, wider) * at_most


@pytest.mark.parametrize("window", [None, 3, 100])
def test_one_document_is_a_plain_sequence(window: int | None) -> None:
    tokens = np.ones((2, 16), np.uint16)
    assert documents_context(tokens, BORDER, True, window) == mean_context(16, window)
    tokens[:, 0] = BORDER
    assert documents_context(tokens, BORDER, True, window) == mean_context(16, window)
    tokens[:, [0, -1]] = 1, BORDER
    assert documents_context(tokens, BORDER, False, window) == mean_context(16, window)


def test_documents_by_hand() -> None:
    """Of 8 tokens: documents of 2 and 6 opened by 9, of 3 and 5 closed by it."""
    tokens = np.array([[1, 1, 9, 1, 1, 1, 1, 1]])
    assert documents_context(tokens, 9, opens=True) == (2**2 / 2 + 6**2 / 2) / 8
    assert documents_context(tokens, 9, opens=False) == (3**2 / 2 + 5**2 / 2) / 8
    # 4 keys at most: the document of 6 has a triangle of 4 and then two tokens with 4 keys each.
    assert documents_context(tokens, 9, opens=True, sliding_window=4) == (2 + 8 + 2 * 4) / 8


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, Shards]:
    """Two sources whose tokens tell where they stood."""
    found = {}
    for name, first, tokens in (("a", 0, 4001), ("b", 10_000, 301)):
        folder = tmp_path / name
        folder.mkdir()
        (np.arange(tokens) + first).astype("<u2").tofile(folder / "train.bin")
        found[name] = Shards(folder, "key", "<u2", Part(1, tokens, tokens), Part(0, 0, 0))
    return found


def test_the_counted_tokens_are_those_a_run_reads_first(
    shards: dict[str, Shards], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one GPU, and on two with half the batch, also where they go on from a checkpoint."""
    sources = {"a": 3.0, "b": 1.0}
    for world, start_step in ((1, 0), (2, 0), (2, 3)):
        data = DataConfig(root_dir=".", sources=sources, batch_size=8 // world, seq_len=10)
        loaders = [
            BatchLoader(shards, data, seed=1, rank=rank, world=world, start_step=start_step,
                        stop_step=5)
            for rank in range(world)
        ]  # fmt: skip
        read = [list(loader.read(1, 5)) for loader in loaders]
        rows = np.concatenate(
            [batch[0, :, :-1] for step in zip(*read, strict=True) for batch in step]
        )
        for loader in loaders:
            with closing(loader):
                assert first_inputs(loader.order, shards, 5 * loader.global_batch).tolist() == (
                    rows.tolist()
                )
    monkeypatch.setattr(context, "COUNTED_TOKENS", 129)
    assert first_inputs(loaders[0].order, shards, 40).tolist() == rows[:12].tolist()
    monkeypatch.setattr(context, "COUNTED_TOKENS", 1)
    assert first_inputs(loaders[0].order, shards, 40).tolist() == rows[:1].tolist()


def test_a_run_writes_its_context_and_uses_it_for_flops(runs: Runs) -> None:
    """The same after it went on with two processes. Documents have 6 KB, so S is half of that."""
    values = ("data.seq_len=3000", "steps=4", "model.n_layers=1", "data.document_mask=true")
    values += ("checkpoint.dump.every=2", "checkpoint.dump.keep=-1", "eval=null", "logging.freq=2")
    runs.run(*values, "data.batch_size=2")
    path = runs.out() / "run.json"
    facts = json.loads(path.read_text())
    found = facts["attention_context"]
    tokens = np.fromfile(next(runs.folder.glob("shards/*/train.bin")), "<u2")
    assert 0.7 * 1500 < found < 1500
    windows = tokens[: len(tokens) // 3000 * 3000].reshape(-1, 3000)
    assert found == pytest.approx(documents_context(windows, 256, opens=True), rel=0.2)
    blocks = 4 * 32**2 + 3 * 32 * 96 + 2 * 32
    flops = 6 * (blocks + 32 + 258 * 32) + 24 * 32 * found
    for record in read_records(runs.out()):
        assert record["speed/tflops_per_gpu"] == pytest.approx(record["speed/wps"] * flops / 1e12)

    shutil.rmtree(runs.out() / "checkpoints" / "0000000004")
    path.write_text(json.dumps(facts | {"status": "failed"}))
    runs.run(*values, "data.batch_size=1", processes=2)
    resumed = json.loads(path.read_text())
    assert resumed["attempts"][-1]["first_step"] == 3
    assert resumed["gpus"] == 2
    assert resumed["attention_context"] == found


def test_a_run_without_documents_writes_the_formula(runs: Runs) -> None:
    runs.run("steps=2", "checkpoint=null", "eval=null", "model.sliding_window=16")
    facts = json.loads((runs.out() / "run.json").read_text())
    assert facts["attention_context"] == 16 - 16**2 / (2 * 64)
