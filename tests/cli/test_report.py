from __future__ import annotations

from pathlib import Path

import pytest

from tests.analysis.conftest import make_whole_run

from .conftest import Run


def test_a_page_of_two_runs(run: Run, tmp_path: Path) -> None:
    for name in ("a_v1", "a_v2"):
        make_whole_run(tmp_path / name, ssim=[0.5])
    result = run("report", tmp_path / "a_*")
    size = Path("report.html").stat().st_size / 1e6
    assert result.stdout == f"Wrote report.html (2 runs, 0 pictures, {size:.1f} MB).\n"
    assert (result.exit_code, result.stderr) == (0, "")
    assert Path("report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_bad_input(run: Run, tmp_path: Path) -> None:
    good, empty = tmp_path / "good", tmp_path / "empty"
    make_whole_run(good)
    empty.mkdir()
    for arguments, message in (
        ([], "Missing argument 'RUN...'"),
        (["nowhere"], "'nowhere' is not a run directory: it does not exist."),
        ([empty], "is not a run directory: it has no losses.csv"),
        ([good, "-o", "page.pdf"], "'page.pdf' is no page; its name must end in .html."),
        ([good, "-o", "-"], "'-' is no page"),
        ([good, "-o", "no/page.html"], "'no/page.html' cannot be written: its directory"),
        ([good, "-o", "/proc/page.html"], "'/proc/page.html' cannot be written"),
        ([good, "--sort", "nothing"], "--sort nothing is not a column"),
        ([good, "no/*"], "'no/*' matches no run directory."),
    ):
        result = run("report", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    assert list(Path().iterdir()) == []


def test_a_directory_is_no_page(run: Run, tmp_path: Path) -> None:
    make_whole_run(tmp_path / "good")
    Path("page.html").mkdir()
    result = run("report", tmp_path / "good", "-o", "page.html")
    assert result.exit_code == 2
    assert "'page.html' cannot be written: it is a directory." in result.stderr


def test_an_existing_page_is_kept_if_the_new_one_cannot_be_made(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_whole_run(tmp_path / "good")
    Path("report.html").write_text("old")

    def fail(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    result = run("report", tmp_path / "good")
    assert result.exit_code == 2
    assert "'report.html' cannot be written: No space left on device." in result.stderr
    assert [path.name for path in Path().iterdir()] == ["report.html"]
    assert Path("report.html").read_text() == "old"
