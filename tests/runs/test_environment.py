from __future__ import annotations

import shlex

import pytest
import torch

from nectargan.runs.environment import describe_environment, own_command_line


def test_the_command_can_be_typed_again_and_tells_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["-n", "two words", "--mlflow-uri", "https://me:secret@host/x", "--set", "a.b={}"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/nectargan-train", *arguments])
    told = own_command_line()
    assert "secret" not in told
    assert shlex.split(told) == [
        "nectargan-train",
        *arguments[:3],
        "https://host/x",
        *arguments[4:],
    ]
    assert describe_environment(torch.device("cpu"))["command"] == told


def test_a_machine_without_a_user_has_no_user_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise OSError("no entry")

    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.delenv("USERNAME", raising=False)
    assert "mlflow.user" not in describe_environment(torch.device("cpu"))
