"""Expressions: Python's own values, what is refused, and the facts that they name."""

import copy
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.expressions import ExpressionError, evaluate, names_in, parse_expression
from study.grid import Cell, Grid
from study.load import load_study
from tests.study.grids import GRID_STUDY, problems
from trainer.layers import merge, nest
from trainer.yaml_files import parse_yaml

FACTS: dict[str, Any] = {"params": 164_416, "gpus": 8, "x.y": 0.5, "model": "tiny", "none": None}


def value(text: str) -> Any:
    return evaluate(parse_expression(text), FACTS.__getitem__)


NUMBERS = st.one_of(
    st.integers(0, 1000).map(str),
    st.floats(0.001, 1e6, allow_nan=False).map(repr),
    st.sampled_from(["params", "gpus"]),
)


def extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["+", "-", "*", "/", "//", "%"])
    binary = st.builds("({} {} {})".format, inner, operators, inner)
    condition = st.builds("{} {} {}".format, inner, st.sampled_from(["<", ">=", "=="]), inner)
    return st.one_of(
        binary,
        st.builds("-{}".format, inner),
        st.builds("{} ** 2".format, inner),
        st.builds("max({}, {})".format, inner, inner),
        st.builds("({} if {} else {})".format, inner, condition, inner),
        st.builds("({} if {} and not {} else 1)".format, inner, condition, condition),
    )


@settings(max_examples=150)
@given(st.recursive(NUMBERS, extend, max_leaves=8))
def test_a_value_is_the_one_that_python_computes(text: str) -> None:
    try:
        expected = eval(text, {"max": max}, FACTS)
    except (ZeroDivisionError, OverflowError):
        with pytest.raises(ExpressionError):
            value(text)
        return
    try:
        assert value(text) == pytest.approx(expected)
    except ExpressionError as error:
        assert "too large" in str(error) and abs(expected) > 2**106


@settings(max_examples=200)
@given(st.text(max_size=40) | st.text("0123456789.()+-*/%<>=!,'[]{}:_abe ", max_size=40))
def test_any_text_has_a_value_or_is_refused(text: str) -> None:
    try:
        tree = parse_expression(text)
        if set(names_in(tree)) <= FACTS.keys():
            evaluate(tree, FACTS.__getitem__)
    except ExpressionError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2% of params", 3288.32),
        ("1 + 2.5% of gpus * 10", 3.0),
        # as floats, 7 / 100 * 100 is more than 7, and 29 / 100 * 100 less than 29
        ("ceil(7% of 100)", 7),
        ("floor(29% of 100)", 29),
        ("29% of 50% of 200 == 29", True),
        ("1 / (2.5% of gpus)", 5.0),
        ("3e-3 * (params / 1e8) ** -0.25", 3e-3 / math.sqrt(math.sqrt(0.00164416))),
        ("2 ** 10 + x.y", 1024.5),
        ("round(2.5) + floor(1.9) + ceil(0.1)", 5),
        ("sqrt(gpus * 2) + log(exp(1))", 5.0),
        ("model in ['tiny', 'wide'] and gpus <= 8", True),
        ("1 < gpus < 8", False),
        ("none == null or none > 3", True),
        ("model != 'tiny'", False),
    ],
)
def test_values_by_hand(text: str, expected: Any) -> None:
    assert value(text) == (pytest.approx(expected) if isinstance(expected, float) else expected)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1 +", "not an expression (invalid syntax)"),
        ("__import__('os').system('true')", "found '__import__('os').system('true')'"),
        ("open('x')", "found 'open('x')'; expected numbers, names"),
        ("(lambda: 1)()", "found '(lambda: 1)()'"),
        ("[x for x in (1, 2)]", "found '[x for x in (1, 2)]'"),
        ("params[0]", "found 'params[0]'"),
        ("f'{params}'", "found"),
        ("(x := 3)", "found '(x := 3)'"),
        ("max(*gpus)", "found '*gpus'"),
        ("round(1.5, 2)", "round takes one number, found 2"),
        ("gpus is 8", "found 'gpus is 8'"),
        ("1j", "found '1j'"),
        ("10 ** 10 ** 10", "its value is too large"),
        ("2.0 ** 1e6", "its value is too large"),
        ("9 ** 99 * 9 ** 99 * 9 ** 99 * 9 ** 99", "its value is too large"),
        ("1 / (gpus - 8)", "divides by zero"),
        # as written it would be 1 / 2.5 / 100 * gpus
        ("1 / 2.5% of gpus", "found a percentage after /, % or **; expected it in parentheses"),
        ("gpus %3% of params", "expected it in parentheses, as in `steps / (2% of tokens)`"),
        ("(0 - gpus) ** 0.5", "raises a negative number to a fraction"),
        ("log(0 - gpus)", "has no value here"),
        ("model + 1", "'model' is 'tiny', not a number"),
        ("none * 2", "'none' is null, not a number"),
        ("2 * true", "'true' is true, not a number"),
        ("2 * (1 < 0)", "'1 < 0' is false, not a number"),
        ("gpus and true", "'gpus' is 8, not a condition"),
        ("1 in gpus", "expected a list"),
        ("(" * 200 + "1" + ")" * 99, "not an expression"),
        ("1 + " * 100 + "1", "more than 300 characters"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        value(text)
    assert told in str(caught.value)


def cell(changes: dict[str, Any]) -> Cell:
    """Return the last cell of the small study with changes."""
    study = merge(parse_yaml(GRID_STUDY, "study.yaml"), changes)
    return Grid(load_study(study, "study.yaml"))[-1]


# tiny: 2 blocks of 4*64*64 + 3*64*256 + 2*64, the last norm, and two matrices of 258*64.
BLOCKS, MATRIX = 2 * (16_384 + 49_152 + 128) + 64, 16_512
TINY = {"grid": [{"cluster": "here", "model": "tiny", "gpus": 2}]}


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        ("params", BLOCKS + 2 * MATRIX),
        ("params_without_embedding", BLOCKS + MATRIX),
        ("dim", 64),
        ("n_layers", 2),
        ("gpus", 2),
        ("nodes", 1),
        ("seq_len", 64),
        ("steps", 20),
        ("global_batch", 8 * 3 * 2),
        ("tokens_per_step", 8 * 3 * 2 * 64),
        ("tokens", 20 * 8 * 3 * 2 * 64),
        # 6N + 12*L*S*q
        ("flops_per_token", 6 * (BLOCKS + MATRIX) + 12 * 2 * 64 * 64),
        ("flops / tokens", 6 * (BLOCKS + MATRIX) + 12 * 2 * 64 * 64),
        ("seed", 42),
        ("optim.beta2", 0.95),
        ("1 if optim.scheduler == 'cosine' and trainer == 'ours' else 2", 1),
        ("data.sources.python_stdlib + grad_acc_steps", 4.0),
    ],
)
def test_facts_of_a_cell(fact: str, expected: float) -> None:
    run = {"run": {"grad_acc_steps": 3, "optim": {"epsilon": f"1 * ({fact})"}}}
    assert cell({**TINY, **run}).run.optim.epsilon == expected


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("optim.warmup", "12% of steps", 2),  # 2.4
        ("optim.warmup", "12.5% of steps", 3),  # 2.5
        ("checkpoint.dump.every", "max(1, 1% of steps)", 1),
        ("optim.lr", "1e-3 if model == 'tiny' else 1", 1e-3),
        ("data.batch_size", "16 // gpus", 8),
        ("model.n_layers", "dim // 16", 4),
        ("steps", "50 * params // tokens_per_step", 8028),  # 50 * 164,416 / 1,024 = 8,028.1
        ("distributed.loss_chunk", "8 * seq_len", 512),
        ("data.sources.python_stdlib", "1 / gpus", 0.5),
    ],
)
def test_any_number_may_be_an_expression(key: str, text: str, expected: float) -> None:
    found: Any = cell({**TINY, "variants": {"v": nest(key, text)},
                       "grid": [{**TINY["grid"][0], "variant": "v"}]}).run  # fmt: skip
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == expected
    assert isinstance(found, float if isinstance(expected, float) else int)


def test_expressions_may_need_each_other() -> None:
    run = {"steps": "2 * optim.warmup", "optim": {"warmup": "gpus + data.batch_size"}}
    made = cell({**TINY, "run": {**run, "data": {"batch_size": "4 * nodes"}}}).run
    assert (made.data.batch_size, made.optim.warmup, made.steps) == (4, 6, 12)


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (
            {"optim": {"lr": "3e-3 * parms"}},
            "run.optim.lr: unknown name 'parms'; did you mean 'params'? (in '3e-3 * parms')",
        ),
        (
            {"optim": {"lr": "optim.warmpu * 2"}},
            "run.optim.lr: unknown name 'optim.warmpu'; did you mean 'optim.warmup'?",
        ),
        ({"optim": {"lr": "q * 2"}}, "run.optim.lr: unknown name 'q'; expected a key such as"),
        (
            {"optim": {"lr": "optim.clip / 0"}},
            "run.optim.lr: divides by zero (in 'optim.clip / 0')",
        ),
        (
            {"steps": "optim.warmup", "optim": {"warmup": "2% of steps"}},
            "run.optim.warmup: depends on itself: steps -> optim.warmup -> steps",
        ),
        ({"optim": {"lr": "2 * optim.lr"}}, "run.optim.lr: depends on itself: optim.lr -> optim."),
        ({"optim": {"lr": "gpus < 2"}}, "run.optim.lr: its value is not a number"),
        (
            {"optim": {"lr": "0 - gpus"}},
            "run.optim.lr: found -2; expected a number above 0 (the value of '0 - gpus')",
        ),
        (
            {"optim": {"warmup": "200% of steps"}},
            "run.optim.warmup = 40 is more than steps = 20 (the value of '200% of steps')",
        ),
        # A string that is no expression is reported as before.
        ({"optim": {"lr": "3e-4"}}, "run.optim.lr: found '3e-4'; expected a number"),
        ({"optim": {"lr": "high"}}, "run.optim.lr: found 'high'; expected a number"),
        ({"optim": {"fused": "1 < 2"}}, "run.optim.fused: found '1 < 2'; expected true or false"),
        # Where a setting is invalid, only that is reported.
        (
            {"data": {"batch_size": "eight"}, "optim": {"lr": "1 / tokens_per_step"}},
            "run.data.batch_size: found 'eight'; expected a number",
        ),
    ],
)
def test_one_problem_with_the_key(run: dict[str, Any], told: str) -> None:
    (problem,) = problems(merge(parse_yaml(GRID_STUDY, "study.yaml"), {**TINY, "run": run}))
    assert problem.startswith(told)


def test_a_wrong_shape_is_reported_and_not_the_facts_that_need_it() -> None:
    study = merge(parse_yaml(GRID_STUDY, "study.yaml"), copy.deepcopy(TINY))
    study["run"]["optim"] = {"lr": "1 / params"}
    study["variants"] = {"v": {"model": {"n_kv_heads": 3}}}
    study["grid"][0] |= {"variant": "v", "tokens": "20N"}
    (problem,) = problems(study)
    assert problem.startswith("variants.v.model.n_kv_heads = 3 does not divide n_heads = 2")


UNREADABLE = {"tokenizer": {"name": "hf", "path": "missing.json"}}


@pytest.mark.parametrize(
    ("block", "data", "told"),
    [
        (
            {"global_batch_size": 7},
            {},
            "grid[0].global_batch_size: 7 sequences cannot be split over 2 GPUs",
        ),
        ({"flops": 1e300}, {}, "grid[0].flops[0] = 1e+300 is 9.9e+290 steps; expected 1e+15"),
        ({}, UNREADABLE, "run.data.tokenizer.path: missing.json: cannot be read as the file of a"),
        ({"tokens": "20N"}, UNREADABLE, "run.data.tokenizer.path: missing.json: cannot be read"),
    ],
)
@pytest.mark.parametrize("where", [{}, {"where": "flops > 0"}])
@pytest.mark.parametrize("lr", [3e-3, "1e3 / flops"])
def test_what_a_fact_needs_is_reported_and_not_the_expression(
    block: dict[str, Any], data: dict[str, Any], told: str, where: dict[str, str], lr: float | str
) -> None:
    study = merge(parse_yaml(GRID_STUDY, "study.yaml"), copy.deepcopy(TINY))
    study["run"] |= {"data": study["run"]["data"] | data, "optim": {"lr": lr}}
    study["grid"][0] |= {**block, **where}
    (problem,) = problems(study)
    assert problem.startswith(told)


def test_few_problems_of_a_key_are_reported() -> None:
    study = merge(parse_yaml(GRID_STUDY, "study.yaml"), copy.deepcopy(TINY))
    study["run"]["optim"] = {"lr": "0 - seed"}
    study["grid"][0]["seed"] = list(range(1, 50))
    assert len(problems(study)) == 3
