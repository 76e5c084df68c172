"""litgpt's GPT with its own pretraining: one run, its measurements as JSON on the last line.

    python -m benchmarks.contenders.litgpt_pretrain SETTINGS.json

SETTINGS.json is that of transformers_trainer.py. litgpt always compiles; `compile` has no effect,
and an eager run needs TORCH_COMPILE_DISABLE=1 in its environment. litgpt checks the validation data
before the first step, as it does by default.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import DataModule
from litgpt.pretrain import setup
from torch.utils.data import DataLoader

from benchmarks.contenders.clock import Clock
from benchmarks.contenders.windows import Windows

SETTINGS = json.loads(Path(sys.argv[1]).read_text())
CLOCK = Clock()


class ClockedAdamW(torch.optim.AdamW):
    """Notes the end of each step: litgpt has no callbacks."""

    def step(self, *arguments: object, **options: object) -> object:
        result = super().step(*arguments, **options)
        CLOCK.note()
        return result


class Tokens(DataModule):
    """The same corpus for training and for the check of the validation data."""

    def connect(self, **_: object) -> None:
        pass

    def _loader(self, shuffle: bool) -> DataLoader:
        batch = SETTINGS["batch_size"]
        return DataLoader(Windows(SETTINGS), batch, shuffle=shuffle, drop_last=True)

    def train_dataloader(self) -> DataLoader:
        return self._loader(shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(shuffle=False)


def main() -> None:
    shape, length = SETTINGS["shape"], SETTINGS["seq_len"]
    config = Config(
        name="bench",
        block_size=length,
        vocab_size=SETTINGS["vocab_size"],
        padded_vocab_size=SETTINGS["vocab_size"],
        n_layer=shape["n_layers"],
        n_head=shape["n_heads"],
        n_query_groups=shape["n_heads"],
        n_embd=shape["dim"],
        intermediate_size=SETTINGS["ffn_hidden"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    batch = SETTINGS["batch_size"]
    with tempfile.TemporaryDirectory() as folder:
        setup(
            "bench",
            model_config=config,
            out_dir=Path(folder),
            precision="bf16-mixed" if SETTINGS["dtype"] == "bf16" else "32-true",
            data=Tokens(),
            train=TrainArgs(
                save_interval=None,
                log_interval=10,
                global_batch_size=batch,
                micro_batch_size=batch,
                lr_warmup_steps=1,
                max_tokens=SETTINGS["steps"] * batch * length,
                max_seq_length=length,
                max_norm=1.0,
                tie_embeddings=False,
            ),
            eval=EvalArgs(interval=SETTINGS["steps"] + 1, max_iters=2, initial_validation=False),
            optimizer={
                "class_path": "__main__.ClockedAdamW",
                "init_args": {"lr": SETTINGS["lr"], "betas": [0.9, 0.95], "weight_decay": 0.1},
            },
            devices=1,
            logger_name="csv",
        )
    print(CLOCK.report())


if __name__ == "__main__":
    main()
