"""Paths with ~ and $NAME, patterns, and commands that can be typed as they stand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nectargan import shell


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of/me")
    monkeypatch.setenv("DATA", "/data sets")
    monkeypatch.delenv("GONE", raising=False)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("runs", "runs"),
        ("", ""),
        ("~", "/home/of/me"),
        ("~/runs", "/home/of/me/runs"),
        ("a~b/~", "a~b/~"),
        ("$DATA/facades", "/data sets/facades"),
        ("${DATA}2/x", "/data sets2/x"),
        ("~/$DATA", "/home/of/me//data sets"),
        ("$GONE/x", "$GONE/x"),
        ("100$", "100$"),
        ("mlflow:1a2b", "mlflow:1a2b"),
        ("x\0y", "x\0y"),
    ],
)
def test_expanded_as_a_shell_does_it(path: str, expected: str) -> None:
    assert shell.expanded(path) == expected


def test_what_exists_is_meant_as_it_is_written() -> None:
    Path("~").mkdir()
    Path("$DATA").mkdir()
    Path("[1]").mkdir()
    assert shell.expanded("~") == "~"
    assert shell.expanded("$DATA") == "$DATA"
    assert shell.stands_for_nothing("$DATA") == ""
    assert not shell.is_pattern("[1]")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("$GONE/x", "$GONE is not set"),
        ("a/${GONE}", "${GONE} is not set"),
        ("~nobody-of-this-name/x", "there is no user 'nobody-of-this-name'"),
        ("a/~", ""),
        ("100$", ""),
        ("runs", ""),
    ],
)
def test_what_stands_for_nothing(path: str, reason: str) -> None:
    assert shell.stands_for_nothing(shell.expanded(path)) == reason


def test_a_pattern_matches_in_natural_order() -> None:
    for name in ("v10", "v9", "v1"):
        Path(name).mkdir()
    assert shell.is_pattern("v*")
    assert [str(path) for path in shell.matches("v*")] == ["v1", "v9", "v10"]
    assert shell.matches("w*") == []


NAMES = [
    *("runs", "two words", "it's", 'a"b', "$HOME", "*", "a;b", "-x", "~", "caf\u00e9", "a\\b", ""),
    *("a\nb", "tab\there", "it's\n", "\x1b[31m", os.fsdecode(b"caf\xe9"), "a\\\nb"),
]


@pytest.mark.skipif(os.name == "nt", reason="for bash")
def test_a_printed_command_is_taken_as_it_was_meant() -> None:
    command = shell.command_line(["printf", "%s\\0", *NAMES])
    assert "\n" not in command
    told = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=60)
    assert told.stdout.split(b"\0")[:-1] == [os.fsencode(name) for name in NAMES]
    assert shell.command_line(["nectargan", "ui", Path("runs")]) == "nectargan ui runs"


def test_quoting_for_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell.os, "name", "nt")
    assert shell.command_line(["x", r"C:\My runs"]) == r'x "C:\My runs"'
    assert shell.quoted(r"C:\runs") == r"C:\runs"
