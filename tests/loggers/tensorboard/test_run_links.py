from __future__ import annotations

import os
from pathlib import Path

import pytest

from nectargan.loggers.tensorboard.run_links import RunLinks

EVENTS = "events.out.tfevents.1.host"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")


def write_events(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / EVENTS).write_text(str(directory))
    return directory / EVENTS


def names(links: RunLinks) -> list[str]:
    """The runs as TensorBoard finds them."""
    return sorted(
        Path(folder).relative_to(links.directory).as_posix()
        for folder, _, files in os.walk(links.directory, followlinks=True)
        if EVENTS in files
    )


def test_a_run_is_named_by_its_directory(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    written = write_events(root / "a_v1" / "tensorboard")
    write_events(root / "sweep" / "b_v1" / "tensorboard")
    write_events(root / "foreign")
    with RunLinks(root) as links:
        assert names(links) == ["a_v1", "foreign", "sweep/b_v1"]
        linked = links.directory / "a_v1" / EVENTS
        with written.open("a") as file:
            file.write("more")
        assert linked.read_text() == written.read_text()
    assert not links.directory.exists()
    assert written.exists(), "the links alone are gone"


def test_new_runs_are_added_and_lost_ones_dropped(tmp_path: Path) -> None:
    write_events(tmp_path / "a_v1" / "tensorboard")
    with RunLinks(tmp_path) as links:
        write_events(tmp_path / "a_v2" / "tensorboard")
        (tmp_path / "a_v1").rename(tmp_path / "c_v1")
        links.update()
        assert names(links) == ["a_v2", "c_v1"]


def test_one_run_alone_and_one_within_another(tmp_path: Path) -> None:
    write_events(tmp_path / "a_v1" / "tensorboard")
    with RunLinks(tmp_path / "a_v1") as links:
        assert names(links) == ["a_v1"]
    write_events(tmp_path / "a_v1" / "x" / "tensorboard")
    with RunLinks(tmp_path) as links:
        assert names(links) == ["a_v1", "a_v1:x"]


def test_without_links_it_is_the_directory_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("a privilege is missing")

    write_events(tmp_path / "a_v1" / "tensorboard")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    with RunLinks(tmp_path) as links:
        assert links.directory == tmp_path
        links.update()
    assert (tmp_path / "a_v1" / "tensorboard" / EVENTS).exists()
