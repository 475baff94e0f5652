from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nectargan.runs.git import git_metadata
from tests.processes import PATIENCE

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


@pytest.fixture(autouse=True)
def _no_configuration_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    done = subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def make_repository(path: Path, *options: str) -> str:
    """A repository with one file in one commit, which is returned."""
    path.mkdir()
    git(path, "init", "-q", *options)
    (path / "a.txt").write_text("one\n")
    git(path, "add", "a.txt")
    git(path, "commit", "-q", "-m", "first")
    return git(path, "rev-parse", "HEAD")


def dirty(path: Path) -> str:
    return git_metadata(path)["git.dirty"]


@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_the_commit_and_whether_files_were_changed(form: str, tmp_path: Path) -> None:
    top = tmp_path / "two words"
    commit = make_repository(top, f"--object-format={form}")
    clean = {"git.commit": commit, "mlflow.source.git.commit": commit, "git.dirty": "false"}
    assert git_metadata(top) == clean
    (top / "new.txt").write_text("not known to git")
    (top / "below").mkdir()
    assert git_metadata(top / "below") == clean
    (top / "a.txt").write_text("two\n")
    assert git_metadata(top / "below") == {**clean, "git.dirty": "true"}
    git(top, "add", "a.txt")
    assert dirty(top) == "true"


def test_another_worktree_of_a_repository(tmp_path: Path) -> None:
    commit = make_repository(tmp_path / "top")
    git(tmp_path / "top", "worktree", "add", "-q", str(tmp_path / "other"))
    git(tmp_path / "top", "pack-refs", "--all")
    (tmp_path / "top" / "a.txt").write_text("changed there")
    assert git_metadata(tmp_path / "other")["git.commit"] == commit
    assert dirty(tmp_path / "other") == "false"
    assert dirty(tmp_path / "top") == "true"


def test_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_metadata(tmp_path) == {}
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q")
    assert git_metadata(tmp_path / "empty") == {}
    monkeypatch.setenv("PATH", "")
    assert git_metadata(tmp_path) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="shell scripts")
def test_nothing_that_a_repository_names_is_run(tmp_path: Path) -> None:
    top, mark = tmp_path / "top", tmp_path / "mark"
    inner = tmp_path / "inner"
    make_repository(inner)
    make_repository(top)
    git(top, "-c", "protocol.file.allow=always", "submodule", "-q", "add", str(inner), "inner")
    (top / ".gitattributes").write_text("*.txt filter=evil diff=evil\n")
    git(top, "add", ".")
    git(top, "commit", "-q", "-m", "second")
    script = tmp_path / "evil.sh"
    script.write_text(f"#!/bin/sh\necho $0 $* >> '{mark}'\ncat\n")
    script.chmod(0o755)
    for repository in (top, top / "inner"):
        for name in (
            "core.fsmonitor",
            "core.pager",
            "core.sshCommand",
            "core.alternateRefsCommand",
            "diff.external",
            "diff.evil.textconv",
            "filter.evil.clean",
            "filter.evil.process",
            "gpg.program",
            "credential.helper",
        ):
            git(repository, "config", name, str(script))
        hooks = Path(git(repository, "rev-parse", "--absolute-git-dir")) / "hooks"
        hooks.mkdir(exist_ok=True)
        for name in ("post-index-change", "fsmonitor-watchman", "pre-auto-gc", "post-checkout"):
            shutil.copy(script, hooks / name)
        # Its time is another, so that git has to look at its content.
        (repository / "a.txt").write_text("one\n")
        os.utime(repository / "a.txt", (1, 1))
    assert dirty(top) == "false"
    assert not mark.exists()
    # The check itself: git as it is does run them.
    subprocess.run(["git", "status"], cwd=top, check=False, capture_output=True, timeout=PATIENCE)
    assert mark.exists()
