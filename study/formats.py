"""Numbers and times as people read them."""

from collections.abc import Callable


def format_count(number: float, digits: int = 3) -> str:
    """Return a count with K, M, B or T: 27.5M for 27,535,872; 131K for 131,072."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        # What rounds to 1000 of a unit is 1 of the next.
        if float(f"{number / size:.{max(digits, 3)}g}") >= 1:
            return f"{_rounded(number / size, digits)}{letter}"
    return f"{number:.0f}"


def format_seconds(seconds: float, digits: int = 2) -> str:
    """Return a time with two or more digits, in a suitable unit: 2.5 min for 149 s."""
    if seconds >= 2 * 86400:
        return f"{_rounded(seconds / 86400, digits)} days"
    for size, unit in ((3600, "h"), (60, "min")):
        text = _rounded(seconds / size, digits)
        if float(text) >= 1:
            return f"{text} {unit}"
    return f"{_rounded(seconds, digits)} s"


def _rounded(value: float, digits: int) -> str:
    """Return a number with so many significant digits, but all of those before the point."""
    return f"{value:.0f}" if value >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def format_number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, but all of those before the decimal point:
    0.0123, 12.3, 12,346."""
    return f"{value:,.0f}" if value >= 10**digits - 0.5 else f"{value:,.{digits}g}"


def format_amount(value: float) -> str:
    """Return an amount with two or more digits: 0.0089, 2.5, 1,234."""
    return format_number(value, 2)


def format_known(value: float | None, form: Callable[[float], str]) -> str:
    """Return a value in a form; empty if it is not known."""
    return "" if value is None else form(value)


def format_ends(low: float | None, high: float | None, form: Callable[[float], str]) -> str:
    """Return an interval with its ends in a form; empty if it is not known."""
    return "" if low is None or high is None else f"{form(low)} to {form(high)}"


def format_interval(low: float | None, high: float | None) -> str:
    """Return an interval of times, with as many digits as its ends need to differ.

    Empty if it is not known.
    """
    if low is None or high is None:
        return ""
    for digits in (2, 3, 4, 5):
        ends = [format_seconds(end, digits) for end in (low, high)]
        if ends[0] != ends[1]:
            break
    return f"{ends[0]} to {ends[1]}"


def format_number_of(number: int, noun: str) -> str:
    """Return a number of things: 1 run, 2 runs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def format_moment(moment: str) -> str:
    """Return a time in ISO 8601 as people read it: 2026-11-27 20:15:00 UTC."""
    return moment.replace("T", " ").replace("+00:00", " UTC")


def format_missing(found: int, planned: int) -> str:
    """Return how many of the planned runs have a loss; empty if all have one."""
    return "" if found == planned else f"{found} of {planned} runs have a loss"
