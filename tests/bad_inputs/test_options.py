"""Wrong values for every option of the config, made from the schema: none is overlooked.

Each is given to ``nectargan train``, in a fork: one sentence that names the option, exit code 2,
nothing made, in bounded time and memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from nectargan.config.schema import Config
from tests.bad_inputs.test_bad_inputs import config_with, tree
from tests.conftest import draw_pairs

if sys.platform == "win32":
    pytest.skip("there is no fork", allow_module_level=True)

from tests.forks import MEMORY, run_forked

HUGE = 10**30
WRONG: dict[type, list[Any]] = {
    int: [HUGE, -HUGE, 1.5, "5", True, [1], {}, "x" * 5000],
    float: [1e300, -1e300, float("nan"), float("inf"), "0.5", True, [0.5], {}],
    bool: ["yes", 1, 0.0, [True], {}],
    str: [5.5, True, ["a"], {}],
}
# Written in several ways, or with a meaning of their own; they have rows in `test_bad_inputs`.
OTHER_KINDS = {"train.loss"}
# schema_version is 1, which equals True; YAML reads "on" as True.
RIGHT = {("schema_version", True), ("logging.gradients", True)}
NO_SECTION = [5, "no schedule", [1], True]


def kinds_of(annotation: Any) -> list[type]:
    """The plain types that an annotation allows, in its order, `NoneType` among them."""
    if get_origin(annotation) is Annotated:
        return kinds_of(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return list(dict.fromkeys(type(value) for value in get_args(annotation)))
    if get_origin(annotation) is not None:
        kinds = [get_origin(annotation)]
        for part in get_args(annotation):
            kinds += kinds_of(part)
        return [kind for kind in dict.fromkeys(kinds) if isinstance(kind, type)]
    return [annotation] if isinstance(annotation, type) else []


def options(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, list[type]]]:
    """Every option under its dotted key, with the plain types that it takes."""
    for name, field in section.model_fields.items():
        kinds = kinds_of(field.annotation)
        models = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if models and not {*kinds} - {*models, type(None)} and field.default is not None:
            # Of several kinds of a section, the first is the one that a config has by default.
            yield from options(models[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kinds


def wrong_values() -> Iterator[tuple[str, Any]]:
    for key, kinds in options(Config):
        if key in OTHER_KINDS:
            continue
        values = [value for kind in kinds for value in WRONG.get(kind, [])]
        if any(issubclass(kind, BaseModel) for kind in kinds):
            values += NO_SECTION
        for value in values:
            if not is_right_for_another_kind(value, kinds) and not is_right(key, value):
                yield key, value
        if type(None) not in kinds:
            yield key, None


def is_right(key: str, value: Any) -> bool:
    return value is True and (key, value) in RIGHT


def is_right_for_another_kind(value: Any, kinds: list[type]) -> bool:
    if type(value) in (int, float):
        return str in kinds and not {int, float} & {*kinds}  # a name may look like a number
    return type(value) in kinds


CASES = list(wrong_values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    draw_pairs(folder / "data", "train", 2, side=36)
    return folder


@pytest.mark.parametrize(
    ("key", "value"), CASES, ids=[f"{key}={json.dumps(value)[:20]}" for key, value in CASES]
)
def test_a_wrong_value_is_named_with_its_option(folder: Path, key: str, value: Any) -> None:
    arguments = config_with(key, value)(folder)
    before = tree(folder)
    ended = run_forked(arguments, folder)
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err
    assert ended.err.startswith("Error: ")
    assert key.rpartition(".")[2] in ended.err
    assert ended.memory < MEMORY
    assert tree(folder) == before, "something was made or changed"


def test_no_option_is_overlooked() -> None:
    keys = {key for key, _ in options(Config)}
    assert len(CASES) > 330
    assert keys - {key for key, _ in CASES} <= OTHER_KINDS
