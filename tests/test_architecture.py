"""Imports point one way only, and importing is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nectargan"

# All that is below the command line and sweeps.
LOWER = {
    *(
        "scheduling",
        "models",
        "images",
        "dataset",
        "metrics",
        "config",
        "losses",
        "record",
        "loggers",
        "analysis",
    ),
    *("build", "build_values", "build_pairs", "build_data", "runs", "trainers"),
}

# What a package may import of the others, besides itself and `FOR_ALL`.
MAY_IMPORT: dict[str, set[str]] = {
    "addresses": set(),
    "cgroups": set(),
    "cpu": set(),
    "credentials": set(),
    "defaults": set(),
    "distributed": set(),
    "errors": set(),
    "files": set(),
    "frozen": set(),
    "imports": set(),
    "interrupts": set(),
    "names": set(),
    "output": set(),
    "servers": set(),
    "parameters": set(),
    "shortage": set(),
    "version": set(),
    "wording": set(),
    "shell": set(),
    "sources": set(),
    "scheduling": set(),
    "images": set(),
    "models": set(),
    "tryout": set(),
    "dataset": {"images"},
    "metrics": set(),
    "config": {"scheduling", "metrics", "dataset", "images"},
    "losses": {"scheduling", "config"},
    "record": {"losses"},
    "loggers": {"record", "metrics"},
    "analysis": {"record", "loggers", "scheduling", "config", "metrics"},
    "build": {"scheduling", "models", "config", "losses", "tryout"},
    "build_values": {"dataset", "config", "images"},
    "build_pairs": {"dataset", "config", "build_values", "images"},
    "build_data": {
        "dataset",
        "config",
        "metrics",
        "build",
        "build_values",
        "build_pairs",
        "tryout",
    },
    "data_report": {"dataset"},
    "data_preview": {"build_data", "config", "dataset", "trainers"},
    "runs": LOWER - {"trainers"},
    "trainers": LOWER - {"loggers", "analysis"},
    "inference": LOWER,
    "sweeps": LOWER - {"analysis"},
    "train": {"cli"},  # a module to start, and nothing else
    "cli": LOWER | {"data_preview", "data_report", "inference", "sweeps", "servers"},
}
# The only module that one package may import of another.
ONLY = {
    ("losses", "config"): "objectives",  # names and weights; a loss never sees a config
    ("record", "losses"): "lm_data",  # the event, never the manager
}
FOR_ALL = {
    "addresses",
    "cgroups",
    "cpu",
    "credentials",
    "defaults",
    "distributed",
    "errors",
    "files",
    "frozen",
    "imports",
    "interrupts",
    "names",
    "output",
    "parameters",
    "shell",
    "shortage",
    "sources",
    "version",
    "wording",
}


def imports(code: str) -> Iterator[str]:
    """Every module of the project that ``code`` imports, wherever in it."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (
                a.name for a in node.names if a.name.split(".")[0] in ("nectargan", "tools")
            )
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level + (node.module or "")
            elif node.module and node.module.split(".")[0] in ("nectargan", "tools"):
                # "from nectargan.x import y": y may be a module, or a name in x.
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(package: str, code: str) -> list[str]:
    """The imports of ``code``, in ``package``, that go against the table."""
    found = []
    for name in imports(code):
        parts = name.split(".")
        allowed = MAY_IMPORT[package] | FOR_ALL | {package}
        # The bare package leads to everything.
        is_wrong = parts[0] != "nectargan" or len(parts) == 1 or parts[1] not in allowed
        only = None if is_wrong else ONLY.get((package, parts[1]))
        if is_wrong or (only is not None and parts[2:3] != [only]):
            found.append(name)
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert violations(package, path.read_text(encoding="utf-8")) == []


def test_every_package_is_in_the_table() -> None:
    assert {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in MODULES} == set(MAY_IMPORT)


def test_only_the_readers_of_trackers_know_one() -> None:
    """Analysis reads run directories; what MLflow and TensorBoard have is read in one module."""
    found = {
        path.name
        for path in (PACKAGE / "analysis").glob("*.py")
        for name in imports(path.read_text(encoding="utf-8"))
        if name.startswith("nectargan.loggers")
    }
    assert found == {"trackers.py"}


@pytest.mark.parametrize(
    ("package", "code"),
    [
        ("losses", "from nectargan.record.ledger import Ledger"),
        ("losses", "def f():\n    import nectargan.trainers.trainer"),
        ("models", "from nectargan import config"),
        ("losses", "import nectargan"),
        ("loggers", "import nectargan"),
        ("record", "from nectargan.losses import loss_manager"),
        ("record", "from nectargan.loggers.tracking import track"),
        ("trainers", "from nectargan.loggers.mlflow.sink import MLflowSink"),
        ("loggers", "import nectargan.losses"),
        ("record", "from nectargan.losses.loss_manager import LossManager"),
        ("losses", "from nectargan.config.schema import Config"),
        ("losses", "import nectargan.config"),
        ("analysis", "if True:\n    from nectargan.losses.lm_data import LMLoss"),
        ("config", "from nectargan.losses.losses import ADVERSARIAL_MODES"),
        ("scheduling", "from nectargan.config.schema import Config"),
        ("errors", "from nectargan.scheduling.data import Schedule"),
        ("loggers", "from nectargan.losses.loss_manager import LossManager"),
        ("dataset", "from nectargan.models.unet import UnetGenerator"),
        ("config", "from ..losses import losses"),
        ("trainers", "from nectargan.cli import display"),
        ("cli", "import tools.bench"),
    ],
)
def test_the_check_would_find_a_wrong_import(package: str, code: str) -> None:
    assert len(violations(package, code)) == 1


@pytest.mark.parametrize(
    ("package", "code"),
    [
        ("losses", "from nectargan.scheduling.data import Schedule"),
        ("record", "from nectargan.losses.lm_data import LossEvent\nimport torch"),
        ("cli", "from nectargan.version import __version__"),
    ],
)
def test_the_check_lets_right_ones_pass(package: str, code: str) -> None:
    assert violations(package, code) == []


def test_only_errors_defines_exceptions() -> None:
    for path in MODULES:
        if path.name == "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = " ".join(ast.unparse(base) for base in node.bases)
                is_ours = "Error" in bases or "Exception" in bases
                assert not is_ours, f"{path}: {node.name}"


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("nectargan", "torch numpy pydantic mlflow tensorboard pandas kornia matplotlib"),
        ("nectargan.scheduling", "torch numpy"),
        ("nectargan.metrics", "torch numpy kornia pydantic"),
        ("nectargan.config.run_schedules", "torch numpy"),
        ("nectargan.config.config_manager", "torch numpy"),
        (
            "nectargan.trainers.pix2pix_trainer",
            "mlflow tensorboard pandas kornia matplotlib",
        ),
    ],
)
def test_importing_is_cheap(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; print(*(set({unwanted.split()!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
