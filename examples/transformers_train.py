"""Trains a Llama with Hugging Face's Trainer: python -m examples.transformers_train config=FILE.

FILE has the arguments of LlamaConfig (`model`) and of TrainingArguments (`training`), and the path
of the cell's settings.yaml, for its tokens (`settings`). It resumes from its newest checkpoint, and
on SIGTERM saves one and stops. config/trainers/transformers.yaml is its template.
"""

import signal
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from examples.study_data import HeldOutTokens, TrainingTokens


def collate(windows: list[Tensor]) -> dict[str, Tensor]:
    """Return a batch: each token's label is the next one of its window."""
    tokens = torch.stack(windows)
    labels = tokens[:, 1:].contiguous()
    return {"input_ids": tokens[:, :-1], "labels": labels, "shift_labels": labels}


class Files(TrainerCallback):
    """Writes trainer_state.json at every log, and saves and stops on SIGTERM."""

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        self._asked = True

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write what has been logged."""
        if state.is_world_process_zero:
            state.save_to_json(str(Path(args.output_dir, "trainer_state.json")))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop, if any rank has been asked to: all of them have to do so in one step."""
        asked = torch.tensor(self._asked, dtype=torch.int32, device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        if asked.item():
            control.should_save = control.should_training_stop = True


def main(path: str) -> None:
    """Train as a file says."""
    settings = yaml.safe_load(Path(path).read_text())
    arguments = TrainingArguments(**settings["training"])
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    samples = arguments.max_steps * arguments.train_batch_size * arguments.world_size
    samples *= arguments.gradient_accumulation_steps
    evaluates = arguments.eval_strategy != "no"
    set_seed(arguments.seed)  # the Trainer does so after the model is made
    trainer = Trainer(
        model=LlamaForCausalLM(LlamaConfig(**settings["model"])),
        args=arguments,
        data_collator=collate,
        train_dataset=TrainingTokens(settings["settings"], samples),
        eval_dataset=HeldOutTokens(settings["settings"]) if evaluates else None,
        callbacks=[Files()],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(arguments.output_dir))


if __name__ == "__main__":
    main(sys.argv[1].removeprefix("config="))
