"""Predicted memory and time of a run, for its Slurm request."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Needs:
    """Predicted memory and time of a run, for cluster settings that are `auto`."""

    mem_gib: int
    """Memory on each node, GiB."""
    runtime_min: int | None
    """Time limit, minutes; None if it is not known."""


NOT_KNOWN = Needs(mem_gib=32, runtime_min=None)
"""Requested if nothing was predicted."""
