"""transformers' Llama with its own Trainer: one run, its measurements as JSON on the last line.

    python -m benchmarks.contenders.transformers_trainer SETTINGS.json

SETTINGS.json holds the shape, batch_size, seq_len, steps, lr, dtype (fp32, bf16), compile, and
tokens: a file of token ids, with its dtype. Nothing of the trainer is imported, as the time to
start is measured too.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.contenders.clock import Clock
from benchmarks.contenders.windows import Windows


class Labelled(Windows):
    """Windows in the form that the Trainer expects."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        window = super().__getitem__(index)
        # The model shifts the labels: one token more makes as many predictions.
        return {"input_ids": window, "labels": window}


class Steps(TrainerCallback):
    """Notes the end of each step."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *_: object, **__: object) -> None:
        self.clock.note()


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    shape, length = settings["shape"], settings["seq_len"]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=settings["vocab_size"],
            hidden_size=shape["dim"],
            intermediate_size=settings["ffn_hidden"],
            num_hidden_layers=shape["n_layers"],
            num_attention_heads=shape["n_heads"],
            max_position_embeddings=length + 1,
            use_cache=False,
        )
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=settings["batch_size"],
            max_steps=settings["steps"],
            learning_rate=settings["lr"],
            max_grad_norm=1.0,
            adam_beta2=0.95,
            weight_decay=0.1,
            optim="adamw_torch_fused",
            bf16=settings["dtype"] == "bf16",
            torch_compile=settings["compile"],
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        callbacks = [Steps(clock)]
        Trainer(model, arguments, train_dataset=Labelled(settings), callbacks=callbacks).train()
    print(clock.report())


if __name__ == "__main__":
    main()
