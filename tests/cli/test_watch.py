from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import PATIENCE
from tests.terminals import on_a_terminal, plain

from .conftest import Run
from .test_train import endless, only_run

WATCH = [sys.executable, "-c", "from nectargan.cli.main import main; main()", "watch"]


def test_a_finished_run_is_one_line(run: Run, config_file: Path, tmp_path: Path) -> None:
    assert run("train", "-c", config_file).exit_code == 0
    result = run("watch", only_run(tmp_path))
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert line.startswith("FINISHED  epoch 2/2  step 6  D_real 0.")
    assert re.search(r"G_L1 0\.\d+ x 100  l1 0\.\d+  psnr [\d.]+  ssim [\d.]+  images/s", line)


def test_bad_input(run: Run, tmp_path: Path) -> None:
    result = run("watch", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "is not a run directory: it does not exist." in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_lines_of_a_run_until_it_is_killed(config_file: Path, tmp_path: Path) -> None:
    with endless(config_file) as training:
        watch = subprocess.Popen(
            [*WATCH, str(only_run(tmp_path))], stdout=subprocess.PIPE, text=True
        )
        assert watch.stdout is not None
        for _ in range(3):
            assert re.match(r"RUNNING  epoch \d+/100000  step \d+  D_real", watch.stdout.readline())
        training.kill()
        training.wait()
        out, _ = watch.communicate(timeout=PATIENCE)
    assert watch.returncode == 0
    assert out.splitlines()[-1].startswith("KILLED: the process ended unexpectedly  epoch ")


def epochs(shown: bytes) -> set[str]:
    return set(re.findall(r"epoch (\d+)/100000", plain(shown)))


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_a_terminal_shows_a_run_live_until_ctrl_c(config_file: Path, tmp_path: Path) -> None:
    with endless(config_file) as training:
        watch, parts = on_a_terminal([*WATCH, str(only_run(tmp_path))])
        shown = b""
        interrupted = False
        for part in parts:
            shown += part
            if not interrupted and len(epochs(shown)) > 1:
                interrupted = True
                watch.send_signal(signal.SIGINT)
        assert watch.wait(timeout=PATIENCE) == 130
        assert training.poll() is None, "it was only watched"
    assert "\x1b[?25h" in shown.decode(), "the cursor is back"
    text = plain(shown)
    assert "tiny_v1  RUNNING" in text
    assert len(epochs(shown)) > 1, "it moves"
    assert re.search(r"step \d+/300000 +[\d.e+]+ images/s", text)
    assert re.search(r"G_L1 +0\.\d+ +100 +\d+(\.\d+)? +\d+(\.\d+)? % +[▁▂▃▄▅▆▇█]{24}", text)
    assert re.search(r"epoch \d+:  l1 0\.\d+  psnr [\d.]+  ssim [\d.e-]+", text)
    assert text.rstrip().endswith("Interrupted.")


def test_it_starts_without_torch() -> None:
    code = (
        "import sys\nimport nectargan.analysis.live, nectargan.cli.watch, nectargan.cli.ui\n"
        "print({'torch', 'mlflow', 'pandas', 'tensorboard'} & sys.modules.keys() or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "none\n"
