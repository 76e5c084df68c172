"""torchtitan's Llama 3 with its own Trainer: one run, its measurements as JSON on the last line.

    python -m benchmarks.contenders.torchtitan_trainer SETTINGS.json

SETTINGS.json is that of transformers_trainer.py. Written for torchtitan 0.3, which needs a GPU. As
with the other contenders, attention is causal without a document mask. All else is as in
torchtitan's own configurations.
"""

import dataclasses
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchtitan.components.checkpoint import CheckpointManager
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.components.optimizer import LRSchedulersContainer, default_adamw
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.config import CompileConfig, TrainingConfig
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.llama3 import _build_llama3_layers, model_registry
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.trainer import Trainer

from benchmarks.contenders.clock import Clock
from benchmarks.contenders.windows import Windows

SETTINGS = json.loads(Path(sys.argv[1]).read_text())
CLOCK = Clock()


class ClockedTrainer(Trainer):
    """Notes the end of each step, as torchtitan has no callbacks."""

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        """torchtitan's."""

    def train_step(self, data_iterator: Iterator[Any]) -> None:
        super().train_step(data_iterator)
        CLOCK.note()


class Tokens(BaseDataLoader):
    """The windows of the corpus, shuffled."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        """No fields: the settings are the program's."""

    def __init__(self, config: Config, **_: object) -> None:
        batch = SETTINGS["batch_size"]
        self.batches = DataLoader(Windows(SETTINGS), batch, shuffle=True, drop_last=True)

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        while True:
            for batch in self.batches:
                yield {"input": batch[:, :-1]}, batch[:, 1:]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class NoTokenizer(BaseTokenizer):
    """The corpus is token ids already."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        """No fields."""

    def __init__(self, config: Config, **_: object) -> None:
        super().__init__()

    def encode(self, *_: object, **__: object) -> list[int]:
        raise NotImplementedError

    def decode(self, *_: object, **__: object) -> str:
        raise NotImplementedError

    def get_vocab_size(self) -> int:
        return SETTINGS["vocab_size"]


def model() -> ModelSpec:
    """Return torchtitan's smallest Llama 3, with the shape of the settings."""
    shape, vocabulary = SETTINGS["shape"], SETTINGS["vocab_size"]
    dim, heads = shape["dim"], shape["n_heads"]
    spec = model_registry("debugmodel")
    small = spec.model
    layers = _build_llama3_layers(
        n_layers=shape["n_layers"],
        dim=dim,
        n_heads=heads,
        hidden_dim=SETTINGS["ffn_hidden"],
        rope=dataclasses.replace(
            small.layers[0].attention.rope, dim=dim // heads, max_seq_len=SETTINGS["seq_len"]
        ),
        attn_backend="flex",
    )
    for layer in layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    config = dataclasses.replace(
        small,
        dim=dim,
        vocab_size=vocabulary,
        tok_embeddings=dataclasses.replace(
            small.tok_embeddings, num_embeddings=vocabulary, embedding_dim=dim
        ),
        norm=dataclasses.replace(small.norm, normalized_shape=dim),
        lm_head=dataclasses.replace(small.lm_head, in_features=dim, out_features=vocabulary),
        layers=layers,
    )
    return dataclasses.replace(spec, model=config)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({key: str(value) for key, value in (*alone.items(), ("MASTER_PORT", port))})
    with tempfile.TemporaryDirectory() as folder:
        config = ClockedTrainer.Config(
            model_spec=model(),
            dump_folder=folder,
            tokenizer=NoTokenizer.Config(),
            dataloader=Tokens.Config(),
            loss=CrossEntropyLoss.Config(global_vocab_size=SETTINGS["vocab_size"]),
            optimizer=default_adamw(lr=SETTINGS["lr"]),
            lr_scheduler=LRSchedulersContainer.Config(warmup_steps=1),
            training=TrainingConfig(
                local_batch_size=SETTINGS["batch_size"],
                seq_len=SETTINGS["seq_len"],
                steps=SETTINGS["steps"],
                mixed_precision_param="bfloat16" if SETTINGS["dtype"] == "bf16" else "float32",
            ),
            checkpoint=CheckpointManager.Config(enable=False),
            activation_checkpoint=None,
            compile=CompileConfig(enable=SETTINGS["compile"]),
        )
        trainer = config.build()
        trainer.train()
        trainer.close()
    print(CLOCK.report())


if __name__ == "__main__":
    main()
