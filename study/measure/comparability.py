"""What differs between the runs of a cell on two sides of a comparison, besides what is compared.

Cells of two studies match by name, and a name does not say everything: `small` may have another
width there, or another length.
"""

from collections.abc import Sequence

from study.measure.throughput_row import ThroughputRow

Pair = tuple[Sequence[ThroughputRow], Sequence[ThroughputRow]]
"""The runs of a cell in the base, and on the other side."""

LEARNED = ("params", "seq_len", "tokens_per_step", "steps", "text")
"""What a loss depends on, whatever the study asks."""

SETTINGS = (
    *LEARNED,
    *("batch_size_per_gpu", "model_dtype", "compiled", "attention", "threads"),
)
"""Settings that are columns of the throughput table."""

MACHINE = ("nodes", "gpu_name", "torch_version")
"""What a speed depends on besides the settings."""


def unlike(pair: Pair, by: str | None) -> list[str]:
    """Return what differs, with the value in the base first.

    `by` is the label that is compared, None between studies: then equal cells have equal settings.
    """
    settings = _differing(pair, SETTINGS)
    if not settings and by is None and _fingerprints_differ(pair):
        settings = ["settings that are no column of the table"]
    if by is None and _text_of_one(pair):
        settings.append("text known on one side only")
    return [*settings, *_differing(pair, MACHINE)]


def losses_compare(pair: Pair, by: str | None) -> bool:
    """Return whether a difference of the losses says which side learns better.

    Within a study a variant may well have another shape, context or text; it needs as many tokens,
    and what it reads must not have changed between the runs.
    """
    if by is None:
        return not _differing(pair, LEARNED) and not _text_of_one(pair)
    rows = [row for side in pair for row in side]
    changed = any(row.other_text for row in rows) and len({row.text for row in rows}) > 1
    return len({row.steps * row.tokens_per_step for row in rows}) == 1 and not changed


def _differing(pair: Pair, columns: Sequence[str]) -> list[str]:
    found = []
    for column in columns:
        base, other = (_values(rows, column) for rows in pair)
        if base and other and base != other:
            found.append(f"{column} {base} and {other}")
    return found


def _text_of_one(pair: Pair) -> bool:
    """Return whether the text of one side alone is known; older tables have none."""
    base, other = (bool(_values(rows, "text")) for rows in pair)
    return base != other


def _values(rows: Sequence[ThroughputRow], column: str) -> str:
    """Return the known values of a column, for people."""
    known = {value for row in rows if (value := getattr(row, column)) is not None}
    return "/".join(sorted(f"{v:,}" if type(v) is int else str(v) for v in known))


def _fingerprints_differ(pair: Pair) -> bool:
    """Return whether runs of one seed have different settings; names and paths are none."""
    base, other = ({row.seed: row.fingerprint for row in rows} for rows in pair)
    return any(base[seed] != other[seed] for seed in base.keys() & other.keys())
