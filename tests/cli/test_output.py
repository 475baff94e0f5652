"""What is printed can neither end a run nor do anything to a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nectargan.output import make_console, printable
from nectargan.record.run_directory import RunDirectory
from tests.processes import PATIENCE

from .conftest import Run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and devices of POSIX")

NECTARGAN = [sys.executable, "-c", "from nectargan.cli.main import main; main()"]


def test_control_characters_are_printed_escaped() -> None:
    assert printable("plain, naïve 雪 😀\n\tend") == "plain, naïve 雪 😀\n\tend"
    assert printable("\x1b[31mred\x07\r\x9b2J") == r"\x1b[31mred\x07\r\x9b2J"
    assert printable("a\u202egnp.exe\u2028\ufeff") == r"a\u202egnp.exe\u2028\ufeff"
    assert printable(os.fsdecode(b"caf\xe9")) == r"caf\xe9"
    assert printable("a\nb", keep="") == r"a\nb"
    persian = "می\u200cخواهم"
    assert printable(persian) == persian


def test_tables_escape_their_cells(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    table = Table("a\x1b[2Jb")
    table.add_row("x\x1b]0;title\x07 [red]:smile:\ny")
    make_console().print(table)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"x\x1b]0;title\x07 [red]:smile:\ny" in out
    assert r"a\x1b[2Jb" in out


@pytest.fixture
def strange_run(run: Run, config_file: Path, tmp_path: Path) -> Path:
    """A run whose directory, status and ledger hold escape sequences."""
    assert run("train", "-c", config_file).exit_code == 0
    directory = tmp_path / "runs" / "a\x1b[2J_v1"
    (tmp_path / "runs" / "tiny_v1").rename(directory)
    for name in ("losses.csv", "metrics.csv"):
        text = (directory / name).read_text()
        (directory / name).write_text(text.replace("G_L1", "G_\x1b[31m").replace("val/", "v\x07/"))
    status = {"status": "FAILED\x1b[0m", "reason": "\x1b]52;c;cm0gLXJm\x07 \u202e"}
    (directory / "status.json").write_text(json.dumps(status))
    return directory


@pytest.mark.parametrize("command", ["runs", "watch", "compare", "plot", "sync", "export-csv"])
def test_a_strangers_run_is_printed_escaped(run: Run, strange_run: Path, command: str) -> None:
    arguments: dict[str, list[object]] = {
        "runs": [strange_run.parent],
        "compare": [strange_run, strange_run],
        "export-csv": [strange_run, "-o", "out.csv"],
    }
    result = run(command, *arguments.get(command, [strange_run]))
    assert not result.exception or isinstance(result.exception, SystemExit)
    assert not {"\x1b", "\x07", "\u202e"} & set(result.output), result.output
    if command in ("runs", "watch"):
        assert r"FAILED\x1b[0m: \x1b]52;c;cm0gLXJm\x07 \u202e" in result.output
    if command in ("compare", "plot"):
        assert r"\x1b" in result.output, result.output


@pytest.mark.slow
def test_terminals_of_other_encodings(config_file: Path) -> None:
    command = [*NECTARGAN, "train", "-c", str(config_file), "-n", "雪é"]
    shown = {"cp1252": "?é_v", "ascii": "??_v", "utf-8": "雪é_v"}
    for encoding, name in shown.items():
        done = subprocess.run(
            command,
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        assert name.encode(encoding) in done.stdout
    listed = subprocess.run(
        [*NECTARGAN, "runs", str(config_file.parent / "runs")],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=PATIENCE,
    )
    assert (listed.returncode, listed.stderr) == (0, b"")
    assert listed.stdout.count(b"??_v") == 3
    assert "[2, 4)→x".encode("ascii", errors="nectargan.plainer") == b"[2, 4)->x"


def _closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def _full_device() -> int:
    return os.open("/dev/full", os.O_WRONLY)


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
LOST = [_closed_pipe, pytest.param(_full_device, marks=needs_full)]


@pytest.mark.slow
@pytest.mark.parametrize("lost", LOST)
def test_a_run_continues_after_its_output_is_closed(
    config_file: Path, lost: Callable[[], int]
) -> None:
    """Standard output and standard error: the run has warnings, too."""
    config = json.loads(config_file.read_text())
    config["logging"]["mlflow"] |= {"enable": True, "tracking_uri": "http://127.0.0.1:9"}
    config["logging"]["drain_seconds"] = 0
    config_file.write_text(json.dumps(config))
    gone = lost()
    try:
        done = subprocess.run(
            [*NECTARGAN, "train", "-c", str(config_file)],
            stdout=gone,
            stderr=gone,
            timeout=PATIENCE,
        )
    finally:
        os.close(gone)
    assert done.returncode == 0
    assert RunDirectory(config_file.parent / "runs" / "tiny_v1").read_status() == ("FINISHED", "")


def test_a_run_without_standard_streams(config_file: Path) -> None:
    """What is printed must not reach the first files that are opened."""
    shell = 'exec "$@" <&- >&- 2>&-'
    command = ["sh", "-c", shell, "sh", *NECTARGAN, "train", "-c", str(config_file)]
    done = subprocess.run(command, timeout=PATIENCE)
    assert done.returncode == 0
    run = config_file.parent / "runs" / "tiny_v1"
    assert RunDirectory(run).read_status() == ("FINISHED", "")
    header = (run / "losses.csv").read_text().partition("\n")[0]
    assert header == "step,epoch,time,loss,raw,weight,weighted"


def test_a_command_that_only_prints_ends_quietly(run: Run, config_file: Path) -> None:
    for _ in range(2):
        assert run("train", "-c", config_file).exit_code == 0
    one, two = (str(config_file.parent / "runs" / f"tiny_v{n}") for n in (1, 2))
    commands = [["runs", str(Path(one).parent)], ["watch", one], ["compare", one, two]]
    commands += [["export-csv", one, "-o", "-"], ["--help"]]
    expected = [(_closed_pipe, command, 141, "") for command in commands]
    if Path("/dev/full").exists():
        told = "Error: Standard output cannot be written: No space left on device.\n"
        expected += [(_full_device, command, 2, told) for command in commands[-2:]]
    for lost, command, code, told in expected:
        gone = lost()
        try:
            done = subprocess.run(
                [*NECTARGAN, *command],
                stdout=gone,
                stderr=subprocess.PIPE,
                text=True,
                timeout=PATIENCE,
            )
        finally:
            os.close(gone)
        assert (done.returncode, done.stderr) == (code, told), command
