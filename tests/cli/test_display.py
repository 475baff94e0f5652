from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_a_terminal_gets_a_live_display(config_file: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "nectargan.cli.train", "-c", str(config_file)],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how a terminal ends on Linux
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"epoch 2/2 [━╸╺ ]+ +6/6", text), "the bar is full at the end"
    assert re.search(r"epoch 1/2  l1 0\.\d+  psnr [\d.]+  ssim [\d.e-]+  images/s", text)
    assert re.search(r"D_real 0\.\d+ x 0\.5  D_fake 0\.\d+ x 0\.5  G_GAN 0\.\d+ x 1", text)
    assert "\x1b[?25h" in shown.decode(), "the cursor is back"
