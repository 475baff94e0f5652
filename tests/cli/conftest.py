"""Commands are run in the same process by click's runner, or as real processes where that is
what is tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nectargan.cli.main import main
from nectargan.config.schema import Config

Run = Callable[..., Result]
CheckRefused = Callable[[list[str], str], None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``nectargan ARGUMENTS`` in an empty directory."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def config_file(tiny: Callable[..., Config], tmp_path: Path) -> Path:
    """The tiny config as a file."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny().model_dump(mode="json")))
    return path


@pytest.fixture
def check_refused(run: Run, config_file: Path, tmp_path: Path) -> CheckRefused:
    """Checks that ``nectargan train ARGUMENTS`` ends in one sentence and leaves nothing.

    It is given the tiny config if the arguments name none.
    """

    def check(arguments: list[str], sentence: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        base = [] if "--config" in arguments else ["-c", str(config_file)]
        result = run("train", *base, *arguments)
        assert result.exit_code == 2
        assert sentence in result.stderr
        assert result.stderr.count("Error: ") == 1
        assert "Traceback" not in result.output
        assert result.stdout == ""
        assert sorted(tmp_path.rglob("*")) == before

    return check
