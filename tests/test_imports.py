"""What a config names by an import path is found, or one sentence says why not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nectargan.errors import ConfigError
from nectargan.imports import call_imported, import_path


def test_a_name_in_a_module() -> None:
    assert import_path("here", "pathlib.Path") is Path
    assert import_path("here", "pathlib:Path") is Path


def test_a_module_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed command does not have it in its path."""
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ".")])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "module_of_this_folder.py").write_text("THING = 7\n")
    try:
        assert import_path("here", "module_of_this_folder.THING") == 7
    finally:
        sys.modules.pop("module_of_this_folder", None)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_package.Thing", "No module named 'no_such_package'"),
        ("pathlib.Pfad", "has no attribute 'Pfad'"),
        ("json.no_such.Thing", "No module named 'json.no_such'"),
        ("Thing", "Empty module name"),
        ("", "Empty module name"),
        (".json.loads", "relative import"),
    ],
)
def test_what_cannot_be_imported(path: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        import_path("train.generator.function", path)
    said = str(caught.value)
    assert said.startswith(f"train.generator.function is '{path}', which cannot be imported: ")
    assert reason in said
    assert said.count("\n") == 0


def test_a_module_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_that_raises.py").write_text("raise SystemError('not\\ntoday')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="cannot be imported: not today"):
        import_path("here", "module_that_raises.Thing")


def test_arguments() -> None:
    assert call_imported("here", "builtins.dict", dict, {"a": 1}, {"a": 2, "b": 3}) == {
        "a": 1,
        "b": 3,
    }
    with pytest.raises(ConfigError, match=r"here are \{'x': 1\}, which 'm.f' refuses: .*'x'"):
        call_imported("here", "m.f", _no_arguments, {"x": 1})


def _no_arguments() -> None:
    """Refuses every argument."""
