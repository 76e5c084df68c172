"""What an estimate rests on: measurements of the configuration, or of others around it or not."""

from collections.abc import Sequence
from dataclasses import dataclass

from study.formats import format_number_of
from study.workload import Workload

VERIFIED = "Verified"
INTERPOLATED = "Estimated by interpolation"
EXTRAPOLATED = "Estimated by extrapolation"
MEASURED_STEPS = "Estimated from measured steps"

MEASURED = (VERIFIED, MEASURED_STEPS)
"""The bases of an estimate from measurements of the configuration itself."""

MEASURED_SIZES = {
    "params": "parameters",
    "gpus": "GPUs",
    "seq_len": "tokens a sequence",
    "tokens": "tokens a micro-batch",
    "grad_acc_steps": "micro-batches a step",
}
"""Attribute of a workload -> its name. An interpolation stays in the measured range of each."""

MEASURED_SETTINGS = {
    "sharding": "sharding",
    "recompute": "activation checkpointing",
    "compiled": "compile",
    "tensor_parallel": "tensor parallelism",
    "value_bytes": "bytes per value",
}
"""Attribute of a workload -> its name. An interpolation needs a measurement with the same value."""


@dataclass(frozen=True)
class Extent:
    """What the measured configurations of a cluster span."""

    count: int
    """Measured configurations."""
    sizes: dict[str, tuple[int, int]]
    """Of `MEASURED_SIZES`: attribute -> smallest and largest value."""
    settings: dict[str, frozenset[object]]
    """Of `MEASURED_SETTINGS` and `unseen`: attribute -> values."""
    params_on: frozenset[tuple[int, int]]
    """GPUs, and parameters measured on them."""


def measured_extent(measured: Sequence[Workload]) -> Extent:
    """Return what configurations span."""
    values = {name: [getattr(work, name) for work in measured] for name in MEASURED_SIZES}
    return Extent(
        len(measured),
        {name: (min(known), max(known)) for name, known in values.items() if known},
        {
            name: frozenset(getattr(work, name) for work in measured)
            for name in (*MEASURED_SETTINGS, "unseen")
        },
        frozenset((work.gpus, work.params) for work in measured),
    )


def find_basis(work: Workload, extent: Extent, variant: str) -> tuple[str, str]:
    """Return the basis of a configuration's estimate, and the reason for it.

    `variant` is the name of its settings.
    """
    if not extent.count:
        return EXTRAPOLATED, "from the data sheet alone, nothing was measured there"
    beyond = []
    for attribute, name in MEASURED_SIZES.items():
        value, measured = getattr(work, attribute), extent.sizes[attribute]
        if not _is_between(value, measured):
            beyond.append(f"{value:,} {name}, measured {_range(measured)}")
    # What so many GPUs cost a model is not known from larger ones on fewer GPUs.
    there = [params for gpus, params in extent.params_on if 1.01 * gpus >= work.gpus]
    if not beyond and not _is_between(work.params, (min(there), max(there))):
        known = f"measured {_range((min(there), max(there)))} on {work.gpus:,} or more"
        beyond.append(f"{work.params:,} parameters on {work.gpus:,} GPUs, {known}")
    for attribute, name in MEASURED_SETTINGS.items():
        if getattr(work, attribute) not in extent.settings[attribute]:
            beyond.append(f"{name} {getattr(work, attribute)} was not measured")
    if work.unseen not in extent.settings["unseen"]:
        beyond.append(f"other settings of variant {variant} were not measured")
    count = format_number_of(extent.count, "measured configuration")
    if beyond:
        return EXTRAPOLATED, f"from {count}; {'; '.join(beyond)}"
    return INTERPOLATED, f"from {count}"


def _is_between(value: int, ends: tuple[int, int]) -> bool:
    """Return whether a size lies between two, or is nearly equal to one of them."""
    return 0.99 * ends[0] <= value <= 1.01 * ends[1]


def _range(ends: tuple[int, int]) -> str:
    return " to ".join(f"{end:,}" for end in dict.fromkeys(ends))
