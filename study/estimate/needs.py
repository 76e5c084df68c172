"""What a run is predicted to need of a node."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Needs:
    """What a run is predicted to need of a node, for what the cluster's settings leave to it."""

    mem_gib: int
    """Memory of the node, GiB."""
    runtime_min: int | None
    """Time, minutes; None where it is not known."""


NOT_KNOWN = Needs(mem_gib=32, runtime_min=None)
"""Asked for where nothing was predicted."""
