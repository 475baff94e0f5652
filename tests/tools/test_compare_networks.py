"""The table of networks: each row can be trained, and a small run of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from nectargan import load_config
from nectargan.build import build_discriminator, build_generator, build_losses
from nectargan.dataset.synthetic import synthesize

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from compare_networks import HEADINGS, VARIANTS, main


@pytest.mark.parametrize("name", VARIANTS)
def test_every_row_is_a_config_that_can_be_trained(name: str) -> None:
    config = load_config("demo", VARIANTS[name])
    with torch.device("meta"):
        build_generator(config)
        build_discriminator(config)
    assert ("G_FM" in build_losses(config)) == ("G_FM" in name)


def test_a_table(tmp_path: Path) -> None:
    synthesize(tmp_path / "fronts", train=4, val=2, size=136)
    arguments = ["-d", str(tmp_path / "fronts"), "--epochs", "1", "--only", "D pixel"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    rows = [line.strip("| ").split(" | ") for line in result.stdout.splitlines()]
    assert rows[0] == HEADINGS
    assert [row[0] for row in rows[2:]] == ["U-Net; D pixel"]
    assert rows[2][2] == f"{6 * 24 + 24 + 24 * 48 + 48 + 1:,}"
    assert all(float(cell.replace(",", "")) > 0 for cell in rows[2][1:])
    times = CliRunner().invoke(main, [*arguments, "--only-times"])
    assert times.exit_code == 0, times.output
    name, milliseconds = times.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert name == "U-Net; D pixel"
    assert float(milliseconds) > 0
    wrong = CliRunner().invoke(main, [*arguments[:4], "--only", "nothing"])
    assert wrong.exit_code == 2
    assert "No row contains that" in wrong.output
