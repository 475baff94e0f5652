from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.errors import ConfigError
from nectargan.sweeps.axes import Range, parse_axes, short_names, split_values

PLAIN = st.text(st.characters(exclude_characters=',[]{}"', categories=("L", "N", "P", "S", "Zs")))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=12,
)


@given(st.lists(JSON, min_size=1), st.booleans(), st.sampled_from([None, 1]))
def test_json_values_come_back_one_by_one(
    values: list[Any], ascii_only: bool, indent: int | None
) -> None:
    items = [json.dumps(value, ensure_ascii=ascii_only, indent=indent) for value in values]
    assert [json.loads(item) for item in split_values(",".join(items))] == values


@given(st.lists(PLAIN, min_size=1))
def test_plain_text_is_split_at_each_comma(items: list[str]) -> None:
    text = ",".join(items)
    assert split_values(text) == [item.strip() for item in text.split(",")]


@given(st.text())
def test_nothing_is_lost_or_it_is_refused(text: str) -> None:
    try:
        items = split_values(text)
    except ValueError:
        assert set(text) & set('[]{}"')
    else:
        assert "".join(",".join(items).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("10,50,100", [10, 50, 100]),
        ("linear 0->1 @ 1-20,1.0", ["linear 0->1 @ 1-20", 1.0]),
        ("linear 0->1 @ 1-20 interval=step, 2", ["linear 0->1 @ 1-20 interval=step", 2]),
        ("[286,286],[300,300]", [[286, 286], [300, 300]]),
        (
            '{"schedule":"constant","initial_value":1},5',
            [{"schedule": "constant", "initial_value": 1}, 5],
        ),
        ('"a,b",c', ["a,b", "c"]),
        (r'"a\",b",c', ['a",b', "c"]),
        ("true,null,off", [True, None, "off"]),
    ],
)
def test_values(text: str, values: list[Any]) -> None:
    (axis,) = parse_axes([f"a.b={text}"])
    assert axis.key == "a.b"
    assert [axis.value_of(item) for item in axis.items] == values
    assert axis.range is None


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("1..100", Range(1, 100, False)),
        ("0.5..2.5", Range(0.5, 2.5, False)),
        ("-1..1", Range(-1, 1, False)),
        ("1e-4..1e-2:log", Range(1e-4, 1e-2, True)),
        (".5...75", Range(0.5, 0.75, False)),
    ],
)
def test_ranges(text: str, span: Range) -> None:
    (axis,) = parse_axes([f"a={text}"])
    assert axis == ("a", [], span)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["a.b"], "--sweep 'a.b' is not of the form section.key=value,value."),
        (["=1,2"], "--sweep '=1,2' is not of the form section.key=value,value."),
        (["a="], "--sweep 'a=' has an empty value; write key=10,50,100."),
        (["a=1,,2"], "--sweep 'a=1,,2' has an empty value; write key=10,50,100."),
        (["a=1,2", "a=3"], "--sweep gives a twice; put all its values into one."),
        (["a.b=1", "a=2"], "--sweep gives a.b and a, but one contains the other."),
        (["a=1", "a.b=2"], "--sweep gives a and a.b, but one contains the other."),
        (["a=[1,2"], "--sweep a: a ']' is missing in '[1,2'."),
        (["a=1],2"], "--sweep a: ']' has no opening bracket in '1],2'."),
        (['a={"x":1],2'], "--sweep a: ']' has no opening bracket in '{\"x\":1],2'."),
        (['a="x'], "--sweep a: a '\"' is missing in '\"x'."),
        (["a=5..1"], "--sweep a: range '5..1' must go from low to high."),
        (
            ["a=0..1:log"],
            "--sweep a: range '0..1:log' must go from low to high, above 0 for a logarithmic one.",
        ),
        (
            ["common.experiment_name=a,b"],
            "--sweep common.experiment_name cannot be used: it determines where runs are stored.",
        ),
        (
            ["logging.mlflow.tracking_uri=http://ada:sesame@a,http://b"],
            "--sweep logging.mlflow.tracking_uri cannot be used: it determines where runs are "
            "stored.",
        ),
        (["common={}"], "--sweep common cannot be used: it determines where runs are stored."),
    ],
)
def test_what_cannot_be_read(texts: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_axes(texts)
    assert str(caught.value) == sentence


def test_short_names_are_unique() -> None:
    assert short_names(["train.loss.G_L1", "a.rate.initial", "b.rate.initial"]) == {
        "train.loss.G_L1": "G_L1",
        "a.rate.initial": "a.rate.initial",
        "b.rate.initial": "b.rate.initial",
    }
