"""What a user can get wrong in `nectargan data`: one sentence, exit code 2, nothing half-made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from nectargan.cli.main import main


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set `f` of 3 pairs, one of two files in 16 bits, and one with a broken link."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder in ("f/trainA", "f/trainB", "wide/A", "wide/B", "broken/A", "broken/B"):
        Path(folder).mkdir(parents=True)
    for i in range(3):
        for side in "AB":
            values = rng.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(values).save(f"f/train{side}/{i}.png")
    for side in "AB":
        Image.fromarray(rng.integers(0, 2**16, (8, 8), np.uint16)).save(f"wide/{side}/1.png")
    Path("broken/A/1.png").symlink_to("/nowhere/1.png")
    Image.new("L", (8, 8)).save("broken/B/1.png")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("pair f/trainA f/trainB -o f/trainA/x", "it is in f/trainA, which is read"),
        ("pair nowhere f/trainB -o x", "nowhere: no such folder."),
        ("pair f/trainA/0.png f/trainB -o x", "0.png: it is not a folder."),
        ("pair f/trainA f/trainB -o x --resize 9000x9000", "81,000,000 pixels; at most 67,108,864"),
        ("pair wide/A wide/B -o x --grey", "1 channel of uint16; --side-by-side, --resize"),
        ("pair broken/A broken/B -o x", "a link to a file that does not exist"),
        ("split f -o f/x --val 1", "it is in f, which is read"),
        ("split f -o x --val 3", "--val 3 of 3 pairs would be 3; choose from 1 to 2 pairs"),
        ("split f -o x --val 1 --seed -1", "'-1' is not a whole number of 0 or more"),
        ("split f/trainA -o x", "found there: 3 images\n"),
        ("crop f -o f/x --size 32", "it is in f, which is read"),
        ("check f --report f", "'f' cannot be written: Is a directory."),
        ("check f --report x/y.html", "cannot be written: No such file or directory."),
    ],
)
def test_a_command_that_is_refused(root: Path, command: str, sentence: str) -> None:
    before = sorted(root.rglob("*"))
    done = CliRunner().invoke(main, ["data", *command.split()])
    assert done.exit_code == 2, done.output
    assert sentence in done.output
    assert sorted(root.rglob("*")) == before
