from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from .conftest import Run

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.json"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_project_can_be_drawn(run: Run, config: Path) -> None:
    result = run("schedule", config, "-o", "s.png")
    assert (result.exit_code, result.stderr) == (0, "")
    constant, drew = result.stdout.splitlines()
    assert constant.startswith("Constant: weight/")
    assert "weight/D_real 0.5" in constant
    assert drew == "Drew s.png."
    with Image.open("s.png") as image:
        assert image.height > 300


def test_bad_input(run: Run, config_file: Path) -> None:
    result = run("schedule", "nowhere.json")
    assert result.exit_code == 2
    assert "'nowhere.json' cannot be read" in result.stderr
    result = run("schedule", config_file, "-o", "no/such/folder.png")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_a_schedule_is_drawn_without_torch(tmp_path: Path) -> None:
    """Which would take longer than the drawing."""
    code = (
        "import sys\n"
        "from nectargan.cli.main import main\n"
        f"main(['schedule', {str(CONFIGS[0])!r}, '-o', 's.png'], standalone_mode=False)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
    assert (tmp_path / "s.png").stat().st_size > 0
