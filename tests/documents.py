"""Running the code blocks of a page as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks_of(page: str) -> list[tuple[str, str]]:
    """Language and code of every block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def run_blocks(page: str) -> tuple[int, str]:
    """Runs the blocks in "bash" and "python" from top to bottom, in the current directory.

    All that begin with a comment that names a file, ``# my_package.py``, are written there
    beforehand instead; what is Python among them counts as run.

    Returns:
        How many there were, and what the commands wrote to standard output.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    names: dict[str, object] = {}
    ran, printed = 0, ""
    files = {code: name for _, code in blocks_of(page) if (name := _file_of(code))}
    for code, name in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(code, encoding="utf-8")
    for language, code in blocks_of(page):
        if code in files and language != "yaml":
            pass
        elif language == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", code],
                # As many threads as this process has: a page may compare the results of both.
                env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            assert "Warning" not in done.stderr
            printed += done.stdout
        elif language == "python":
            exec(compile(code, page, "exec"), names)  # noqa: S102 - our own page
        else:
            continue
        ran += 1
    return ran, printed


def _file_of(code: str) -> str | None:
    match = re.match(r"# ([\w/]+\.(?:py|yaml))\n", code)
    return match[1] if match else None
