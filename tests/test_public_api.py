"""The public API is what `nectargan.__all__` names, and costs nothing until it is used."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import nectargan


def test_the_exported_members_are_those_of_all() -> None:
    for name in nectargan.__all__:
        getattr(nectargan, name)
    members = {
        name
        for name, value in vars(nectargan).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    # Left by the module's own imports.
    members -= {"annotations", "TYPE_CHECKING", "Any"}
    assert sorted(members | {"__version__"}) == nectargan.__all__
    assert set(nectargan.__all__) <= set(dir(nectargan))


def test_type_checkers_see_the_lazy_names() -> None:
    tree = ast.parse(inspect.getsource(nectargan))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: f"nectargan.{module}" for name, module in nectargan._MODULES.items()}
    assert sorted([*seen, "__version__"]) == nectargan.__all__


@pytest.mark.parametrize("name", sorted(set(nectargan.__all__) - {"__version__"}))
def test_each_name_is_documented(name: str) -> None:
    value = getattr(nectargan, name)
    assert callable(value)
    assert inspect.getdoc(value)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nectargan' has no attribute 'trakc'"):
        _ = nectargan.trakc


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        (
            "import nectargan; dir(nectargan)",
            "torch numpy pydantic mlflow tensorboard pandas kornia",
        ),
        ("from nectargan import Schedule, Scheduler, load_config", "torch numpy"),
        ("from nectargan import LossManager, track", "mlflow tensorboard pandas kornia"),
        ("from nectargan import load_losses, load_runs", "mlflow tensorboard kornia"),
    ],
)
def test_names_are_loaded_when_they_are_used(code: str, unwanted: str) -> None:
    code = f"import sys\n{code}\nprint(*(set({unwanted.split()!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
