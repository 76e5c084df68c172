from typing import Any, Literal

import pytest

from trainer.kinds import Kinds, number_kind


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int | None, True, "found true; expected a number"),
        (int | Literal["auto"], "many", "found 'many'; expected a number or 'auto'"),
        (Literal["a", "b"], 7, "found 7; expected 'a' or 'b'"),
        (bool | Literal["auto"], "yes", "found 'yes'; expected true, false or 'auto'"),
        (float, "1_000", "found '1_000'; expected a number, written without underscores"),
        (float, "5e3", "found '5e3'; expected a number, written without quotes"),
        (str, 5, "found 5; expected a string, in quotes"),
        (tuple[int, ...] | float, False, "found false; expected a list or a number"),
        (list[str] | None, True, "found true; expected a list"),
        (dict[str, int] | float, True, "found true; expected a mapping or a number"),
        (int, 2**63, f"found {2**63}; expected a 64-bit number"),
    ],
)
def test_a_value_of_another_kind_is_refused(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Kinds.of(annotation).check(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, -(2**63)),
        (float, 3),
        (int | Literal["auto"], "auto"),
        (list[int] | None, 7),  # which pydantic refuses
        (dict[str, int], {"a": True}),
        (Any, "1_000"),
    ],
)
def test_other_values_are_left_to_pydantic(annotation: Any, value: Any) -> None:
    assert Kinds.of(annotation).check(value) is value


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (int | Literal["auto"], int),
        (int | float | None, float),
        (int | str, None),
        (Literal["a"], None),
        (list[int], None),
    ],
)
def test_settings_that_are_numbers(annotation: Any, kind: type | None) -> None:
    """A setting that may be a string is none, even if it may be a number."""
    assert number_kind(annotation) is kind
