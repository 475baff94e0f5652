"""The longer guides do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from tests.documents import ROOT, blocks_of, run_blocks


def test_the_session_of_twenty_runs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    try:
        ran, printed = run_blocks("docs/analysis.md")
    finally:
        mlflow.set_tracking_uri(before)
    runnable = [code for language, code in blocks_of("docs/analysis.md") if language != "text"]
    assert ran == len(runnable) >= 11
    # The schedules appear in the tables as they were given.
    assert "linear 100→10 @ 1–4" in printed
    assert "linear 100→10 @ 1–4" in capsys.readouterr().out
    assert "step,epoch,time,loss,raw,weight,weighted" in printed
    assert Path("three_runs.png").read_bytes().startswith(b"\x89PNG")
    assert Path("losses.pdf").read_bytes().startswith(b"%PDF")
    means = pd.read_parquet("history.parquet")
    assert sorted(means["run"].unique()) == ["l1_v1", "l1_v13"]
    assert sorted(means["epoch"].unique()) == [1, 2, 3, 4]
    assert set(pd.read_csv("smooth.csv").filter(like="/raw").columns) == {
        "loss/G_GAN/raw",
        "loss/G_L1/raw",
    }


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_guides_link_to_what_is_there() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", text):
            file = page.parent / target if target else page
            assert file.exists(), f"{page}: {target}"
            assert not anchor or anchor in headings(file), f"{page}: {target}#{anchor}"
