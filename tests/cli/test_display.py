from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.terminals import on_a_terminal, plain


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_a_terminal_gets_a_live_display(config_file: Path) -> None:
    command = [sys.executable, "-m", "nectargan.cli.train", "-c", str(config_file)]
    process, parts = on_a_terminal(command)
    shown = b"".join(parts)
    assert process.wait() == 0
    text = plain(shown)
    assert re.search(r"epoch 2/2 [━╸╺ ]+ +6/6", text), "the bar is full at the end"
    assert re.search(r"epoch 1/2  l1 0\.\d+  psnr [\d.]+  ssim [\d.e-]+  images/s", text)
    assert re.search(r"D_real 0\.\d+ x 0\.5  D_fake 0\.\d+ x 0\.5  G_GAN 0\.\d+ x 1", text)
    assert "\x1b[?25h" in shown.decode(), "the cursor is back"
