"""The JSON Schema and the explanations say what the loader does."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from nectargan import load_config
from nectargan.config.loss_options import LossTerm, ScheduleConfig, ShareConfig
from nectargan.config.network_options import SECTIONS
from nectargan.config.reference import all_keys, explain_key, json_schema
from nectargan.config.schema import Config
from nectargan.config.shipped import shipped_configs
from nectargan.errors import ConfigError

_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_KNOWN = {
    *("type", "anyOf", "oneOf", "$ref", "enum", "const", "properties", "required"),
    *("additionalProperties", "items", "minItems", "maxItems", "minimum", "maximum"),
    *("exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern"),
    # They say nothing about what is valid.
    *("title", "description", "default", "$defs", "$schema"),
}


def problems(value: object, node: dict[str, Any], place: str = "") -> Iterator[str]:
    """What a validator of JSON Schema would complain of; for the keywords that ours uses."""
    assert set(node) <= _KNOWN, f"{place}: {set(node) - _KNOWN}"
    if "$ref" in node:
        yield from problems(value, json_schema()["$defs"][node["$ref"].rpartition("/")[2]], place)
    for name in ("anyOf", "oneOf"):
        if name in node:
            fitting = [not list(problems(value, each, place)) for each in node[name]].count(True)
            if fitting == 0 or (name == "oneOf" and fitting > 1):
                yield f"{place}: {value!r} fits {fitting} of {name}"
    if "enum" in node and value not in node["enum"]:
        yield f"{place}: {value!r}"
    if isinstance(value, str) and not re.search(node.get("pattern", ""), value):
        yield f"{place}: {value!r}"
    if "const" in node and value != node["const"]:
        yield f"{place}: {value!r}"
    if "type" in node:
        is_bool = isinstance(value, bool) and node["type"] != "boolean"
        if is_bool or not isinstance(value, _TYPES[node["type"]]):
            yield f"{place}: {value!r} is no {node['type']}"
            return
    if isinstance(value, dict):
        for name, each in value.items():
            below = node.get("properties", {}).get(name, node.get("additionalProperties", {}))
            if below is False:
                yield f"{place}: {name} is unknown"
            elif isinstance(below, dict):
                yield from problems(each, below, f"{place}.{name}")
        yield from (f"{place}: {n} is missing" for n in node.get("required", ()) if n not in value)
    elif isinstance(value, list):
        if not node.get("minItems", 0) <= len(value) <= node.get("maxItems", 10**9):
            yield f"{place}: {len(value)} items"
        for index, each in enumerate(value):
            yield from problems(each, node.get("items", {}), f"{place}.{index}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        inside = node.get("minimum", -1e99) <= value <= node.get("maximum", 1e99) and node.get(
            "exclusiveMinimum", -1e99
        ) < value < node.get("exclusiveMaximum", 1e99)
        if not inside:
            yield f"{place}: {value!r} is out of bounds"


def test_shipped_configs_are_valid_as_written_and_in_full() -> None:
    for path in shipped_configs().values():
        document = json.loads(path.read_text())
        assert list(problems(document, json_schema())) == []
        assert list(problems({**document, "$schema": "x.json"}, json_schema())) == []
        full = load_config(path).model_dump(mode="json")
        assert list(problems(full, json_schema())) == []


def nested(key: str, value: object) -> dict[str, Any]:
    document: Any = value
    for name in reversed(key.split(".")):
        document = {name: document}
    return document


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.loss.G_L1", 50),
        ("train.loss.G_L1", "linear 100->0 @ 1-20"),
        ("train.loss.G_L1", {"schedule": "cosine", "end_epoch": 5, "target_value": 2.0}),
        ("train.loss.X", {"function": "torch.nn.L1Loss", "weight": "linear 0->1 @ 1-2"}),
        ("train.loss.X", {"function": "torch.nn.HuberLoss", "arguments": {"delta": 0.5}}),
        ("dataloader.load.crop_size", [128, 256]),
        ("dataloader.load.resize", ["nearest", "bicubic"]),
        ("train.generator.learning_rate.schedule", "cosine 0.1->0 @ 1-9"),
        ("save.keep_last", None),
        ("common.experiment_name", 2026),
        ("train.generator", {"name": "resnet", "n_blocks": 6}),
        ("train.generator", {"function": "my.Net", "arguments": {"width": 3}}),
        ("train.discriminator", {"name": "multiscale", "n_scales": 2}),
    ],
)
def test_what_the_loader_takes_is_valid(key: str, value: object) -> None:
    assert list(problems(nested(key, value), json_schema())) == []
    load_config(nested(key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("common.sede", 1),
        ("common.seed", "1"),
        ("common.seed", -1),
        ("common.seed", True),
        ("common.precision", "fp8"),
        ("dataloader.load.crop_size", 0),
        ("dataloader.load.crop_size", [128, 256, 3]),
        ("dataloader.load.resize", "lanczos"),
        ("train.loss.G_L1", True),
        ("train.loss.G_L1", {"schedule": "linear", "weight": 3}),
        ("train.loss", [1, 2]),
        ("train.generator.dropout", 1.0),
        ("train.generator.name", "resnt"),
        ("train.generator", {"name": "resnet", "block_type": "UnetBlock"}),
        ("train.generator", {"function": "my.Net", "features": 3}),
        ("train.discriminator", {"name": "pixel", "n_layers": 2}),
        ("schema_version", 2),
    ],
)
def test_what_the_loader_refuses_is_not_valid(key: str, value: object) -> None:
    assert list(problems(nested(key, value), json_schema())) != []
    with pytest.raises(ConfigError):
        load_config(nested(key, value))


def test_the_schema_is_of_the_dialect_that_editors_read() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    references = json.dumps(schema).split('"$ref": "#/$defs/')[1:]
    assert {each.partition('"')[0] for each in references} <= set(schema["$defs"])


def fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key whose section is certain, with its field."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")
        elif name in SECTIONS:
            # What several networks have is explained as the usual one has it.
            yield from fields(type(field.default), f"{prefix}{name}.")


@pytest.mark.parametrize(("key", "field"), list(fields(Config)), ids=lambda each: str(each)[:60])
def test_every_key_is_explained_by_its_docstring(key: str, field: Any) -> None:
    found = explain_key(key)
    assert found.key == key in all_keys()
    assert found.text == " ".join(field.description.split())
    assert all(found.types)
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        names = [each.key.removeprefix(f"{key}.") for each in found.below]
        kinds = SECTIONS.get(key.removeprefix("train."), {"": type(default)}).values()
        known = dict.fromkeys(each for kind in kinds for each in kind.model_fields)
        assert (names, found.default) == (list(known), "")
    elif not isinstance(default, dict):
        assert json.loads(found.default) == json.loads(json.dumps(default))


def test_bounds_and_choices_are_said() -> None:
    assert explain_key("train.generator.dropout").types == ["number, at least 0, below 1"]
    assert explain_key("common.seed").types == ["whole number, at least 0, below 4294967296"]
    assert explain_key("train.generator.name").types == ['"unet", "resnet", "pix2pixhd"']
    assert explain_key("train.gan_mode").types == ['"vanilla", "lsgan", "hinge"']
    assert explain_key("save.keep_last").types[1] == "null"


def test_losses_of_any_name() -> None:
    loss, named = explain_key("train.loss"), explain_key("train.loss.G_L1")
    (below,) = loss.below
    assert below.key == "train.loss.NAME"
    assert below.types == named.types
    names = {each.key.removeprefix("train.loss.G_L1.") for each in named.below}
    assert names == {
        *LossTerm.model_fields,
        *ScheduleConfig.model_fields,
        *ShareConfig.model_fields,
    }
    assert explain_key("train.loss.G-1.weight").text.startswith("Weight: a number")
    assert explain_key("train.loss.X.weight.power").types[0] == "number, above 0, at most 1000"


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("trian", "There is no key 'trian' in a config. Did you mean 'train'? Allowed: common,"),
        (
            "train.generator.featurs",
            "no key 'featurs' in train.generator. Did you mean 'features'?",
        ),
        ("seed", "Did you mean 'common.seed'?"),
        ("loss.G_L1", "Did you mean 'train.loss'?"),
        ("common.seed.x", "There is no key 'x' in common.seed. It is not a section."),
        (".", "There is no key '' in a config."),
        ("train.", "There is no key '' in train."),
        ("$schema", "There is no key '$schema' in a config."),
    ],
)
def test_unknown_keys(key: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        explain_key(key)
    assert told in str(caught.value)


def test_a_schema_that_was_given_away_stays_as_it_is() -> None:
    before = copy.deepcopy(json_schema())
    explain_key("train.loss.G_L1")
    assert json_schema() == before
