import pytest

from study.formats import (
    format_count,
    format_interval,
    format_missing,
    format_number,
    format_seconds,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.3, "0.3 s"), (42.4, "42 s"), (59.7, "60 s"), (59.9, "1 min"), (149.2, "2.5 min"),
     (840, "14 min"), (3582, "60 min"), (3590, "1 h"), (9000, "2.5 h"), (100_000, "28 h"),
     (864_000, "10 days")],
)  # fmt: skip
def test_times_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("number", "digits", "text"),
    [(27_535_872, 3, "27.5M"), (131_072, 2, "131K"), (16_384, 2, "16K"), (1_048_576, 2, "1M"),
     (512, 2, "512"), (206_083_072, 3, "206M"), (1_378_865_152, 3, "1.38B"), (999.6, 3, "1K"),
     (999_499, 3, "999K"), (999_500, 3, "1M"), (999_700_000, 3, "1B"), (999_700_000, 4, "999.7M")],
)  # fmt: skip
def test_counts_for_people(number: int, digits: int, text: str) -> None:
    assert format_count(number, digits) == text


@pytest.mark.parametrize(
    ("number", "digits", "text"),
    [(0.000135, 3, "0.000135"), (5.2249, 3, "5.22"), (999.6, 3, "1,000"), (3725.0, 3, "3,725"),
     (12.3456, 4, "12.35"), (1234.5, 4, "1,234"), (9999.7, 4, "10,000"), (44_380.2, 4, "44,380")],
)  # fmt: skip
def test_numbers_for_people_have_no_exponent_if_they_are_large(
    number: float, digits: int, text: str
) -> None:
    assert format_number(number, digits) == text


def test_the_ends_of_an_interval_differ() -> None:
    assert format_interval(59.2, 61.1) == "59 s to 1 min"
    assert format_interval(60.1, 61.1) == "1 min to 1.02 min"
    assert format_interval(8640.0, 8700.0) == "2.4 h to 2.42 h"
    assert format_interval(None, 1.0) == ""


def test_runs_without_a_loss_are_counted() -> None:
    assert format_missing(2, 3) == "2 of 3 runs have a loss"
    assert format_missing(3, 3) == ""
