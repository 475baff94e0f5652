from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nectargan.analysis.report.page import write_report
from nectargan.record.run_directory import RunDirectory

from ..conftest import make_run, make_whole_run
from .conftest import make_run_with_pictures, test_grey, test_values


def data_in(page: Path, element: str = "data") -> Any:
    """The JSON in an element of a page."""
    text = page.read_text(encoding="utf-8")
    begin = text.index(">", text.index(f'id="{element}"', text.index("</dialog>"))) + 1
    return json.loads(text[begin : text.index("</script>", begin)])


class Elements(HTMLParser):
    """The names of the elements of a page, and whatever could ask for something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]


def test_a_page_has_what_is_on_record(tmp_path: Path) -> None:
    for seed in range(2):
        weight = [("train.loss.G_L1", 100.0 - seed)]
        make_run_with_pictures(tmp_path / "runs" / f"a_v{seed}", seed, options=weight)
    RunDirectory(tmp_path / "runs" / "a_v1").write_status("FAILED", "G_L1 is nan")
    page = tmp_path / "page.html"
    report = write_report(str(tmp_path / "runs" / "*"), page)
    # Two pairs in common, and of each run three epochs of two pairs; of the tests, four pairs, two
    # of which are those, and of each run four images.
    assert report == (2, 4 + 12 + 4 + 8, page.stat().st_size)
    data = data_in(page)
    assert data["runs"] == ["v0", "v1"]
    columns = zip(*data["table"]["rows"], strict=True)
    table = dict(zip(data["table"]["columns"], columns, strict=True))
    assert table["loss.G_L1"] == ("100", "99")
    assert table["status"] == ("FINISHED", "FAILED: G_L1 is nan")
    assert table["best/ssim"] == ("0.3 (epoch 2)", "0.31 (epoch 2)")
    best = dict(zip(data["table"]["columns"], data["table"]["best"], strict=True))
    assert best["best/ssim"] == [False, True]
    assert not any(key.endswith("_epoch") for key in table)
    assert "<title>a_…" in page.read_text(encoding="utf-8")
    assert f"{report.size / 1e6:.1f} MB" in page.read_text(encoding="utf-8")

    first, second = data["tests"]["records"]
    assert first["best"] == ["l1"]
    assert second["best"] == []
    assert data["tests"]["images"] == [["a", "b", "c", "d"]]
    for seed, record in enumerate((first, second)):
        text = data["arrays"][record["values"]["l1"]]
        values = np.frombuffer(base64.b64decode(text[1:]), "<f8")
        written = pd.read_csv(tmp_path / "runs" / f"a_v{seed}" / "test" / "test.csv")["l1"]
        assert list(values) == list(written) == pytest.approx(test_values(seed))
        assert record["cells"]["l1"][0] == f"{written.mean():.4g}"
        for row, places in record["pictures"].items():
            wanted = (10 + int(row), test_grey(seed, int(row)), 200 + int(row))
            for place, grey in zip(places, wanted, strict=True):
                file = io.BytesIO(base64.b64decode(data_in(page, "picture-texts")[place]))
                with Image.open(file) as picture:
                    pixels = np.asarray(picture)
                assert pixels.shape == (20, 32, 3)
                assert abs(pixels.astype(int) - grey).max() <= 2
        assert set(record["pictures"]) == {"0", "1", "2", "3"}
        assert record["how"] == "4 images, 20 x 32, dropout off, best.pt"


def test_a_page_asks_for_nothing_and_names_are_text(tmp_path: Path) -> None:
    evil = '</script><script>alert("a")</script><img src=x onerror=alert(1)>&<b>'
    plain = tmp_path / "plain.html"
    make_run_with_pictures(tmp_path / "run")
    write_report(tmp_path / "run", plain)
    run = make_run_with_pictures(tmp_path / evil.replace("/", "_"))
    run.write_status("FAILED", evil)
    table = run.losses.read_text().replace("G_L1", "</script><b>")
    run.losses.write_text(table)
    test = run.test_values("test")
    test.write_text(test.read_text().replace("a,", "</script><b>,", 1))
    page = tmp_path / "page.html"
    write_report(run.path, page)
    elements = Elements(page.read_text(encoding="utf-8"))
    assert elements.names == Elements(plain.read_text(encoding="utf-8")).names
    assert set(elements.links) == {"data:,"}
    data = data_in(page)
    assert data["runs"] == [run.name]
    assert data["table"]["rows"][0][0] == f"FAILED: {evil}"
    assert "</script><b>" in data["tests"]["images"][0][0]
    policy = re.search(r'content="(default-src[^"]*)"', page.read_text(encoding="utf-8"))
    assert policy is not None
    assert policy[1].startswith("default-src 'none';")
    assert "http" not in policy[1]


def test_runs_of_all_kinds_are_on_one_page(tmp_path: Path, caplog: Any) -> None:
    """One without a config, one without pictures, one that has not begun, one that is damaged."""
    make_run(tmp_path / "track")
    make_whole_run(tmp_path / "whole", ssim=[0.5], l1=[0.1])
    make_whole_run(tmp_path / "new", status="RUNNING")
    for name in ("losses.csv", "metrics.csv"):
        (tmp_path / "new" / name).unlink()
    make_whole_run(tmp_path / "damaged")
    (tmp_path / "damaged" / "losses.csv").write_text("step,epoch\n1,2\n")
    page = tmp_path / "page.html"
    runs = [tmp_path / name for name in ("track", "whole", "new", "damaged")]
    report = write_report([*runs, tmp_path / "new" / ".." / "whole"], page)
    assert report[:2] == (3, 0)
    data = data_in(page)
    # A run that is named twice is shown once, by its path.
    assert data["runs"] == ["track", str(tmp_path / "whole"), "new"]
    assert {curve["run"] for curve in data["curves"]} == {0, 1}
    (message,) = set(caplog.messages)
    assert "damaged" in message
    assert data_in(page, "picture-texts") == []


def test_the_order_of_the_runs_can_be_chosen(tmp_path: Path) -> None:
    for seed in range(3):
        make_run_with_pictures(tmp_path / f"a_v{seed}", seed)
    page = tmp_path / "page.html"
    write_report(str(tmp_path / "a_*"), page, sort="best/ssim")
    data = data_in(page)
    assert data["runs"] == ["v2", "v1", "v0"]
    assert [record["run"] for record in data["tests"]["records"]] == [0, 1, 2]
    first = data["tests"]["records"][0]["values"]["l1"]
    values = np.frombuffer(base64.b64decode(data["arrays"][first][1:]), "<f8")
    assert list(values) == pytest.approx(test_values(2))
