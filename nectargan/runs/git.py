"""The git commit that a run was started in, asked without running what the repository names.

A repository's own configuration can name programs for git to run: a file system monitor, filters
of files, hooks. So git is asked through a directory with a configuration of our own, which names
none, and borrows only the objects and the index of the repository.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_PATIENCE_SECONDS = 5


def git_metadata(directory: Path) -> dict[str, str]:
    """Commit of the repository around a directory, and whether files were changed since, as tags;
    empty where there is no repository, or no git."""
    git = shutil.which("git")
    if git is None:
        return {}
    # Reads files, and runs nothing.
    found = ("rev-parse", "--show-toplevel", "--show-object-format", "HEAD")
    paths = ("--git-path", "objects", "--git-path", "index")
    try:
        told = _ask([git, *found, *paths], directory, _environment()).splitlines()
        top, form, commit, objects, index = told
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
            # A repository's attributes could start programs of the user's configuration.
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_DIR": str(home),
            "GIT_WORK_TREE": str(top),
            "GIT_OBJECT_DIRECTORY": str(objects.resolve()),
            "GIT_INDEX_FILE": str(index.resolve()),
        }
        # Submodules have configurations of their own.
        command = [
            git,
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--ignore-submodules=dirty",
        ]
        return _ask(command, top, environment)


def _ask(command: list[str], directory: Path, environment: dict[str, str]) -> str:
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
