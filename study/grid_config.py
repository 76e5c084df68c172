"""A block of a study's grid: its axes, the length of its runs and where they start."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from study.horizon import check_tokens
from study.trainers import DEFAULT_TRAINER
from study.value_types import Name, Names, as_list, as_names
from trainer.other_names import names
from trainer.problems import RuleError
from trainer.settings import IsNumber, Settings


class AnyOf(Settings):
    """Several clusters, of which one is chosen for each cell; see study/placements.py."""

    any: Names
    """Names from the clusters file."""

    @field_validator("any")
    @classmethod
    def _has_no_name_twice(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError(f"found {', '.join(names)}; expected each name once")
        return names


ClusterName = Annotated[
    Annotated[Name, Tag("name")] | Annotated[AnyOf, Tag("any")],
    Discriminator(lambda value: "any" if isinstance(value, Mapping | AnyOf) else "name"),
]
ClusterNames = Annotated[list[ClusterName], BeforeValidator(as_names), Field(min_length=1)]
Count = Annotated[PositiveInt, IsNumber]
Counts = Annotated[list[Count], BeforeValidator(as_list), Field(min_length=1)]
Tokens = Annotated[PositiveFloat | str, BeforeValidator(check_tokens)]
TokenCounts = Annotated[list[Tokens], BeforeValidator(as_list), Field(min_length=1)]
FlopCounts = Annotated[
    list[Annotated[PositiveFloat, IsNumber]], BeforeValidator(as_list), Field(min_length=1)
]
SweptValues = Annotated[list[Any], BeforeValidator(as_list), Field(min_length=1)]
Seeds = Annotated[list[Annotated[int, IsNumber]], BeforeValidator(as_list), Field(min_length=1)]


PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?%")


class Branch(Settings):
    """The checkpoint of another cell from which the cells of a block start."""

    cell: Annotated[str, Field(min_length=1)]
    """The other cell: its variant, with the values of further axes as in its folder, if cluster,
    model, GPU count and seed are the same; otherwise its whole name."""
    at: PositiveInt | str = "100%"
    """Its step: a number, a percentage of its steps, or an expression of the facts of the cell that
    starts there, such as 0.8 * steps."""

    @property
    def percent(self) -> str | None:
        """The number of a percentage; None if `at` is something else."""
        found = PERCENT.fullmatch(self.at) if isinstance(self.at, str) else None
        return None if found is None else found[1]


LENGTHS = ("steps", "tokens", "flops")
"""Keys of a block for the length of its runs, of which it has at most one."""


class GridEntry(Settings):
    """A block of cells: the product of its axes. Each axis takes one value or a list."""

    model_config = ConfigDict(serialize_by_alias=True)

    other_names: ClassVar[Mapping[str, str]] = names(
        {
            "cluster": "clusters",
            "model": "models model_size",
            "gpus": "gpu num_gpus n_gpus world_size",
            "variant": "variants",
            "seed": "seeds",
            "trainer": "trainers",
            "global_batch_size": "batch_size global_batch",
            "tokens": "token_budget train_tokens",
            "flops": "compute flop_budget",
            "sweep": "sweeps grid over",
            "paired": "zip zipped",
            "where": "if filter",
            "from": "branch continue_from",
        }
    )

    cluster: ClusterNames
    """Names from the clusters file; `any: [a, b]`: whichever of them ends the run first."""
    model: Names
    """Names from the models file."""
    gpus: Counts
    """GPU counts; on a cluster without GPUs, numbers of processes."""
    variant: Names = Field(default=["base"])
    """Named overrides from `variants`; `base` has none."""
    trainer: Names = Field(default=[DEFAULT_TRAINER])
    """Names from the trainers file."""
    seed: Seeds = Field(default=[42])
    """Seeds of the runs."""
    repeats: PositiveInt = 1
    """Measure each cell this many times: with its seed and those that follow it."""
    steps: Counts | None = None
    """Lengths of the runs, optimizer steps; null: run.steps, or that of the variant."""
    tokens: TokenCounts | None = None
    """Lengths of the runs in tokens, such as 10B, or 20N for 20 per parameter; rounded to whole
    steps."""
    flops: FlopCounts | None = None
    """Lengths of the runs in training FLOPs, such as 1e18, by the formula of MFU; rounded to whole
    steps."""
    sweep: dict[str, SweptValues] = Field(default={})
    """Dotted key of a run.yaml -> its values, an axis each."""
    paired: bool = False
    """Take the lists of the block together, first with first, instead of crossing them; `seed` is
    crossed all the same."""
    where: str | None = None
    """Condition on a cell's facts, such as "params < 1e9"; cells that do not meet it are left
    out."""
    from_: Branch | None = Field(default=None, alias="from")
    """Start from another cell's checkpoint: with its weights, optimizer state, step and position in
    the data. null: from the beginning."""
    global_batch_size: PositiveInt | None = None
    """Strong scaling: sequences per step over all GPUs, by adapting batch size and gradient
    accumulation. null: weak scaling, with run.data.batch_size sequences on every GPU."""
    measure: bool = True
    """false: the cell is in the time table as an estimate and is never run."""

    @model_validator(mode="after")
    def _has_one_length(self) -> "GridEntry":
        given = [key for key in LENGTHS if getattr(self, key) is not None]
        given += ["sweep"] if given and "steps" in self.sweep else []
        if len(given) > 1:
            last = "steps in sweep" if given[-1] == "sweep" else given[-1]
            message = f"the runs' length is set by {given[0]} and by {last}; remove one of them"
            raise RuleError([given[-1]], message)
        return self

    @model_validator(mode="after")
    def _repeats_one_seed(self) -> "GridEntry":
        if self.repeats > 1 and len(self.seed) > 1:
            message = f"= {self.repeats} counts up from one seed; found {len(self.seed)} seeds"
            raise RuleError(["repeats", "seed"], message)
        return self

    @model_validator(mode="after")
    def _lists_match(self) -> "GridEntry":
        counts = {key: len(values) for key, values in self.lists().items()}
        counts = {key: count for key, count in counts.items() if count > 1}
        if self.paired and len(set(counts.values())) > 1:
            found = ", ".join(f"{key} has {count}" for key, count in counts.items())
            raise RuleError(["paired"], f"needs lists of one length; {found}")
        return self

    def lists(self) -> dict[str, list[Any]]:
        """Return axis -> values, of all but the seeds."""
        axes = {
            key: getattr(self, key)
            for key in ("cluster", "model", "gpus", "variant", "trainer", *LENGTHS)
        }
        return {key: values for key, values in axes.items() if values is not None} | self.sweep

    @property
    def seeds(self) -> list[int]:
        """The seeds of each cell of the block."""
        return [seed + number for seed in self.seed for number in range(self.repeats)]

    @property
    def combinations(self) -> int:
        """Number of cells of the block, before `where`."""
        counts = [len(values) for values in self.lists().values()]
        seeds = len(self.seed) * self.repeats
        return seeds * (max(counts) if self.paired else math.prod(counts))
