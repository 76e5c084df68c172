"""The optimizer and its learning-rate schedule: `optim` of a run.yaml."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from trainer import lingua, other_names
from trainer.problems import RuleError
from trainer.settings import LeftOut, Settings

Ratio = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # of a mean: at 1 it would never learn of a gradient


class OptimConfig(Settings):
    """The optimizer and its learning-rate schedule."""

    other_names: ClassVar[Mapping[str, str]] = other_names.OPTIM

    name: Literal["adamw", "muon"] = "adamw"
    """The optimizer. muon trains the blocks' matrices, and AdamW embedding, output and norms;
    trainer/model/optimizers.py has the costs of each."""
    lr: PositiveFloat = 3e-4
    """Peak learning rate."""
    scheduler: Literal["cosine", "linear", "constant", "inv_sqrt", "wsd"] = "cosine"
    """Learning-rate schedule after the warm-up; formulas: trainer/model/learning_rate.py."""
    warmup: NonNegativeInt = 0
    """Steps of linear warm-up; `constant` has none."""
    lr_min_ratio: Ratio = 0.1
    """Smallest learning rate, as a fraction of lr."""
    cycle_length: Annotated[float, Field(gt=0, le=1)] = 1.0
    """cosine, wsd: length of a cycle, as a fraction of the run."""
    cosine_theta: PositiveFloat = 1.0
    """cosine: power of the progress."""
    decay_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """wsd: the decay's share of all steps up to the end of its cycle."""
    exp_factor: PositiveFloat = 0.5
    """inv_sqrt: power of warmup / step."""
    clip: PositiveFloat | None = 1.0
    """Largest gradient norm; null turns clipping off (the norm is still logged)."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay of the matrices; norm weights have none."""
    beta1: Decay = 0.9
    """Decay of the first moment."""
    beta2: Decay = 0.95
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    momentum: Decay = 0.95
    """muon: decay of the matrices' momentum."""
    fused: bool = True
    """AdamW: update all weights in one kernel; false: one operation at a time."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "annealing_step": LeftOut("lingua defines but never uses it", lingua.is_count),
    }

    @model_validator(mode="after")
    def _schedule_is_valid(self) -> "OptimConfig":
        if self.scheduler == "inv_sqrt" and self.warmup == 0:
            message = "= 0, but scheduler inv_sqrt falls as warmup / step; expected 1 or more"
            raise RuleError(["warmup", "scheduler"], message)
        if self.scheduler == "wsd" and self.decay_fraction >= self.cycle_length:
            message = f"= {self.decay_fraction} must be less than cycle_length"
            keys = ["decay_fraction", "cycle_length", "scheduler"]
            raise RuleError(keys, f"{message} = {self.cycle_length}")
        if self.scheduler == "wsd" and self.lr_min_ratio == 0:
            message = "= 0, but scheduler wsd divides by it; expected more than 0"
            raise RuleError(["lr_min_ratio", "scheduler"], message)
        return self
