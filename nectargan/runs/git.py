"""Finds the git commit of the working directory without running programs of the repository.

The configuration of a repository can name programs that git runs: a file system monitor, filters,
hooks. Therefore git runs with a temporary directory as its repository, whose configuration names
none, and uses only the objects and the index of the real repository.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_PATIENCE_SECONDS = 5


def git_metadata(directory: Path) -> dict[str, str]:
    """The commit of the repository that contains a directory, and whether files have changed since,
    as tags. Empty if there is no repository, or git is not installed."""
    git = shutil.which("git")
    if git is None:
        return {}
    # This command reads files and runs no programs.
    found = ("rev-parse", "--show-toplevel", "--show-object-format", "HEAD")
    paths = ("--git-path", "objects", "--git-path", "index")
    try:
        lines = _run([git, *found, *paths], directory, _environment()).splitlines()
        top, form, commit, objects, index = lines
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    tags = {"git.commit": commit, "mlflow.source.git.commit": commit}
    try:
        changed = _changed_files(
            git, Path(top), form, commit, directory / objects, directory / index
        )
    except (OSError, subprocess.SubprocessError):
        return tags
    return {**tags, "git.dirty": str(bool(changed)).lower()}


def _changed_files(git: str, top: Path, form: str, commit: str, objects: Path, index: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in ("objects", "refs"):
            (home / name).mkdir()
        (home / "HEAD").write_text(f"{commit}\n", encoding="ascii")
        extension = "" if form == "sha1" else f"[extensions]\nobjectFormat = {form}\n"
        version = 0 if form == "sha1" else 1
        (home / "config").write_text(
            f"[core]\nrepositoryFormatVersion = {version}\nbare = false\n{extension}",
            encoding="ascii",
        )
        environment = {
            **_environment(),
            # Attributes of the repository could start programs in the configuration of the user.
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_DIR": str(home),
            "GIT_WORK_TREE": str(top),
            "GIT_OBJECT_DIRECTORY": str(objects.resolve()),
            "GIT_INDEX_FILE": str(index.resolve()),
        }
        # Submodules have their own configurations.
        command = [
            git,
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--ignore-submodules=dirty",
        ]
        return _run(command, top, environment)


def _run(command: list[str], directory: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(  # noqa: S603 - a fixed command, no shell
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=_PATIENCE_SECONDS,
        check=True,
    )
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {
        **kept,
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }
