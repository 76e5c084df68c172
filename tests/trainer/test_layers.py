"""Merged settings: which layer wins, and which one a problem is reported under."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.layers import Layer, Merged, flatten, merge
from trainer.problems import ConfigError, Problem, RuleError, combine
from trainer.yaml_files import parse_document

KEYS = st.sampled_from("abc")
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        st.integers(),
        lambda inner: st.dictionaries(KEYS, inner) | st.lists(inner, max_size=2),
        max_leaves=6,
    ),
)


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """Return path -> value of what is no group, of empty groups, and of lists as a whole."""
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    return {p: v for key, value in tree.items() for p, v in leaves(value, (*path, key)).items()}


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


@given(TREES)
def test_a_tree_is_flattened_to_its_leaves(tree: dict[str, Any]) -> None:
    assert dict(flatten(tree)) == (leaves(tree) if tree else {})


@given(st.lists(TREES, min_size=1, max_size=4))
def test_a_merge_leaves_what_it_merges_as_it_was(trees: list[Any]) -> None:
    before = deepcopy(trees)
    merge(*trees)
    assert trees == before


@given(st.lists(TREES, min_size=1, max_size=4))
def test_every_value_is_traced_to_its_layer(trees: list[Any]) -> None:
    layers = [Layer(tree, source=str(index)) for index, tree in enumerate(trees)]
    merged = Merged(layers)
    assert merged.values == merge({}, *trees)
    for path, value in leaves(merged.values).items():
        found = merged.trace(Problem(path, "x"))
        if path:
            assert at(trees[int(str(found.source))], path) == value or value == {}
            later = trees[int(str(found.source)) + 1 :]
            assert not any(path in leaves(tree) for tree in later)


BASE = parse_document("a: {x: 1, y: 2}\nb:\n  - {c: 1}\n  - {c: 2}\n", "base.yaml")


def trace(path: tuple[Any, ...], *others: tuple[Any, ...], **layer: Any) -> Problem:
    """Return a problem of the file above with another layer over it."""
    merged = Merged([Layer.of(BASE), Layer(source="top", **layer)])
    return merged.trace(Problem(path, "= 1 is wrong", others))


def test_a_nested_override_owns_only_its_keys() -> None:
    values = {"a": {"x": 5}}
    assert trace(("a", "x"), values=values).source == "top"
    assert (trace(("a", "y"), values=values).source, trace(("a", "y"), values=values).line) == (
        "base.yaml",
        1,
    )


def test_a_list_that_replaces_another_owns_all_of_it() -> None:
    found = trace(("b", 0, "c"), values={"b": [{"d": 1}]})
    assert found.source == "top"  # the file's b[0].c is not in the merged settings


def test_a_missing_key_is_reported_in_the_first_layer_of_its_group() -> None:
    found = trace(("a", "z"), values={"a": {"x": 5}})
    assert (found.source, found.line, str(found)) == (
        "base.yaml",
        1,
        "line 1: a.z = 1 is wrong",
    )
    assert trace(("b", 2), values={"a": {"x": 5}}).source == "base.yaml"
    assert trace(("a", "x"), values={"a": 5}).source == "top"  # under it, a has no keys


def test_a_layer_may_be_merged_under_a_key() -> None:
    found = trace(("a", "x"), values={"x": 3}, at=("a",), prefix=("shapes", "small"))
    assert found.path == ("shapes", "small", "x")
    found = trace(("a", "x"), values={"a": {"x": 3}}, prefix=("axis",), derived=True)
    assert found.path == ("axis",)
    merged = Merged([Layer({}, source="bottom"), Layer.of(BASE, at=("m",))])
    found = merged.trace(Problem(("m", "b", 1, "c"), "= 2 is wrong"))
    assert (found.source, str(found)) == ("base.yaml", "line 4: b[1].c = 2 is wrong")


def test_layers_on_top_override_what_was_merged_before() -> None:
    merged = Merged([Layer.of(BASE)]).over(Layer({"a": {"x": 5}}, source="top"))
    assert merged.values["a"] == {"x": 5, "y": 2}
    assert merged.sources == ["base.yaml", "top"]


def test_a_value_that_is_replaced_keeps_its_origin() -> None:
    layers = [Layer.of(BASE), Layer({"x": 3}, at=("a",), prefix=("shapes",), source="top")]
    changed = Merged(layers).with_value(("a", "x"), 7).with_value(("a", "y"), 8)
    assert changed.values == {**BASE.values, "a": {"x": 7, "y": 8}}
    assert changed.sources == ["base.yaml", "top"]
    found = [changed.trace(Problem(("a", key), "")) for key in "xy"]
    assert [(item.source, item.path) for item in found] == [
        ("top", ("shapes", "x")),
        ("base.yaml", ("a", "y")),
    ]


def test_a_broken_rule_blames_the_key_of_the_last_layer() -> None:
    x, y = ("a", "x"), ("a", "y")
    assert str(trace(x, y, values={})) == "line 1: a.x = 1 is wrong"
    assert str(trace(x, y, values={"a": {"y": 9}}, prefix=("v",))) == "v.a.y: x = 1 is wrong"
    assert str(trace(x, y, values={"a": {"x": 9, "y": 9}})) == "a.x = 1 is wrong"
    assert str(trace(("q",), x, values={})) == "line 1: a.x: q = 1 is wrong"
    assert str(trace(("q",), y, x, values={})) == "line 1: a.y: q = 1 is wrong"  # named before x


def test_a_problem_that_has_a_source_keeps_it() -> None:
    problem = Problem(("a", "x"), "= 1 is wrong", source="other.yaml", line=7)
    assert Merged([Layer.of(BASE)]).trace(problem) == problem


def test_a_tie_is_decided_by_outer_layers() -> None:
    """As of a cell: both keys are of `run`, and one of them is of the command line."""
    cell = Merged([Layer({"w": 9, "s": 5}, prefix=("run",))])
    study = Merged([Layer({"run": {"w": 9}}, source="f"), Layer({"run": {"s": 5}}, source="c")])
    (problem,) = [cell.trace(RuleError(["w", "s"], "= 9 is more than s = 5").problem())]
    assert str(problem) == "run.w = 9 is more than s = 5"
    assert problem.others == (("run", "s"),)
    found = study.trace(problem)
    assert (found.source, str(found)) == ("c", "run.s: w = 9 is more than s = 5")


def test_problems_are_grouped_by_file_and_sorted_by_line() -> None:
    error = ConfigError(
        "a.yaml",
        [
            Problem(("z",), "other", source="b.yaml"),
            Problem(("y", 0), "late", line=9),
            "a sentence",
            Problem(("x",), "= 1 is early", line=2),
        ],
    )
    assert str(error) == (
        "a.yaml: 3 problems\n  a sentence\n  line 2: x = 1 is early\n  line 9: y[0]: late\n"
        "b.yaml: 1 problem\n  z: other"
    )
    both = combine([error, ConfigError("c.yaml", ["another"])])
    assert str(both) == f"{error}\nc.yaml: 1 problem\n  another"


def test_a_broken_rule_reads_as_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"^a\.b = 1 is odd$"):
        raise RuleError(["a.b", "c"], "= 1 is odd")
