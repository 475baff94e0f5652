"""The page of `nectargan data check --report`."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from nectargan.cli.main import main
from nectargan.data_report import MOST_PICTURED, write_report
from nectargan.dataset.pairs import Pair
from nectargan.dataset.suspicions import Suspicion
from nectargan.dataset.synthetic import synthesize
from nectargan.errors import DataError


def pictures(text: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_each_finding_has_its_pictures_and_names_are_escaped(tmp_path: Path) -> None:
    root = tmp_path / "<b>set"
    synthesize(root, train=6, val=1, size=64, seed=1)
    path = root / "train" / "<i>&.png"
    Image.new("RGB", (128, 64), "red").save(path)
    page = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["data", "check", str(root), "--report", str(page)])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"The findings with their pictures: {page}"
    text = page.read_text(encoding="utf-8")
    assert text.count("<section>") == 2  # both halves are empty
    assert "<tr><td>empty</td><td>2</td></tr>" in text
    assert "train: 7 pairs in train (side by side), 64 x 64. val: 1 pair" in text
    assert "&lt;i&gt;&amp;.png (left half)" in text
    assert "Leave it out unless it is intended." in text
    assert not re.search(r"<b>|<i>|https?:|src=\"(?!data:)", text)
    assert [(image.size, image.getpixel((5, 5))) for image in pictures(text)] == [
        ((128, 64), (255, 0, 0))
    ] * 2


def test_most_findings_of_a_kind(tmp_path: Path) -> None:
    Image.new("L", (640, 640), 7).save(tmp_path / "1.png")
    pair = Pair("1", tmp_path / "1.png", tmp_path / "gone.png")
    found = [Suspicion("empty", ("1.png",), "a figure", "advice", (pair,))] * 30
    write_report(found, {"empty": 30}, "set", "Facts.", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<section>") == MOST_PICTURED
    assert "and 5 more; --json lists all." in text
    assert "Facts. 30 findings." in text
    assert "gone.png: unreadable (No such file or directory)" in text
    assert {image.size for image in pictures(text)} == {(160, 160)}


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"page\.html' cannot be written: No such file"):
        write_report([], {}, "set", "", tmp_path / "nowhere" / "page.html")
