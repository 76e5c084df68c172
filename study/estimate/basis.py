"""What an estimate rests on: measurements of the configuration, or of others around it or not."""

from collections.abc import Sequence
from dataclasses import dataclass

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
}
"""Attribute of a workload -> its name. An interpolation stays in the measured range of each."""

MEASURED_SETTINGS = {
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
    )


def find_basis(work: Workload, extent: Extent, variant: str = "base") -> tuple[str, str]:
    """Return the basis of a configuration's estimate, and the reason for it.

    `variant` is the name of its settings.
    """
    if not extent.count:
        return EXTRAPOLATED, "from the data sheet alone, nothing was measured there"
    beyond = []
    for attribute, name in MEASURED_SIZES.items():
        value, (low, high) = getattr(work, attribute), extent.sizes[attribute]
        if not 0.99 * low <= value <= 1.01 * high:
            ends = " to ".join(f"{end:,}" for end in dict.fromkeys((low, high)))
            beyond.append(f"{value:,} {name}, measured {ends}")
    for attribute, name in MEASURED_SETTINGS.items():
        if getattr(work, attribute) not in extent.settings[attribute]:
            beyond.append(f"{name} {getattr(work, attribute)} was not measured")
    if work.unseen not in extent.settings["unseen"]:
        beyond.append(f"other settings of variant {variant} were not measured")
    count = f"{extent.count} measured configuration{'s' if extent.count > 1 else ''}"
    if beyond:
        return EXTRAPOLATED, f"from {count}; {'; '.join(beyond)}"
    return INTERPOLATED, f"from {count}"
