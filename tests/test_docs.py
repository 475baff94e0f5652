"""The longer guides do what they say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from nectargan import load_config
from nectargan.scheduling.notation import notation_of
from tests.documents import ROOT, blocks_of, run_blocks

KINDS = ("augmentations", "losses", "metrics", "schedules", "sinks")


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


def test_the_page_about_extending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        ran, printed = run_blocks("docs/extending.md")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
            del sys.modules[name]
    files = {"own.yaml", "saw.yaml", *(f"my_package/{n}.py" for n in ("__init__", *KINDS))}
    runnable = [code for language, code in blocks_of("docs/extending.md") if language != "yaml"]
    assert ran == len(runnable) > len(KINDS) + 1
    assert all(Path(name).is_file() for name in files)
    run = Path("runs/own_v1")
    losses = pd.read_csv(run / "losses.csv").drop_duplicates(["epoch", "loss"])
    weights = losses[losses["loss"] == "G_L1"]["weight"]
    assert list(weights) == [100.0, 80.0, 100.0, 80.0, 100.0]
    assert "G_EDGES" in set(losses["loss"])
    metrics = pd.read_csv(run / "metrics.csv").set_index("metric")["value"]
    assert metrics["best/worst_pixel"].iloc[-1] == metrics["val/worst_pixel"].min()
    assert metrics["best/sharpness"].iloc[-1] == metrics["val/sharpness"].max()
    assert (run / "checkpoints" / "best.pt").is_file()
    assert "journal: had everything." in printed
    for directory, file in ((run, "journal.txt"), (Path("loop"), "journal.txt")):
        assert (directory / file).read_text().rstrip().endswith("FINISHED")
    steps = [line.split()[0] for line in (Path("loop") / "other.txt").read_text().splitlines()]
    assert list(dict.fromkeys(steps)) == ["1", "5", "10", "FINISHED"]
    section = load_config("saw.yaml").train
    assert notation_of(section.loss["G_L1"].weight.build()) == (
        "my_package.saw 100→60 @ 1–1 period=2"
    )


def test_the_page_about_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran, printed = run_blocks("docs/images.md")
    assert ran >= 3
    assert "train: 4 pairs in trainA + trainB, 64 x 64" in printed
    assert "uint16 64 64 13" in capsys.readouterr().out
    assert load_config("view.yaml").save.view.stretch == [1, 99]
    load = load_config("depth.yaml").dataloader.load
    assert (load.target_channels, load.output_nc) == (["Z"], 1)


def test_the_page_about_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran, _ = run_blocks("docs/gradients.md")
    kinds = [kind for kind, _ in blocks_of("docs/gradients.md")]
    assert ran == len(kinds) - kinds.count("yaml") - kinds.count("text") > 5
    assert "G_SOBEL" in capsys.readouterr().out
    for run, losses in (("runs/pull_v1", 5), ("my_runs/pull", 2)):
        gradients = pd.read_csv(Path(run) / "gradients.csv")
        shares = gradients.groupby("step")["share"].agg(["sum", "size"])
        assert shares["sum"].to_numpy() == pytest.approx(1)
        assert set(shares["size"]) == {losses}
    rows = pd.read_csv("runs/fifth_v1/gradients.csv").set_index("loss")
    shares = rows.loc["G_GAN", "share"].to_numpy()
    assert shares[0] == pytest.approx(0.2, abs=1e-3)
    assert shares.mean() == pytest.approx(0.2, rel=0.1)  # the first 16 steps, smoothed
    # Without smoothing, a loss pulls as its share says beside the losses with plain weights.
    plain = rows.drop(["G_GAN", "G_LAP", "G_SOBEL"]).groupby("step")["norm"].sum().to_numpy()
    pull = rows.loc["G_SOBEL", "norm"].to_numpy() / plain
    assert pull.tolist() == pytest.approx([0.0] * 8 + [0.1 / 0.6] * 8, rel=1e-3)


def test_the_page_about_using(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran, printed = run_blocks("docs/using.md")
    assert ran == len(blocks_of("docs/using.md")) >= 4
    assert "Largest difference from the network" in printed
    assert {path.name for path in Path("shared").iterdir()} == {
        *("README.md", "fronts_v1.onnx", "fronts_v1.onnx.png")
    }
    assert {path.name for path in Path("generated").glob("*.png")}
    assert all(Path(page).stat().st_size > 4e6 for page in ("report.html", "all.html"))


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_in_the_guides_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", text):
            file = page.parent / target if target else page
            assert file.exists(), f"{page}: {target}"
            assert not anchor or anchor in headings(file), f"{page}: {target}#{anchor}"
