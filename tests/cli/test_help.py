"""Help texts say what is so, and shells complete what there is."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete, get_completion_class
from click.testing import CliRunner

from nectargan.cli.common import Command
from nectargan.cli.main import main
from nectargan.cli.options import Setting
from nectargan.cli.train import train
from nectargan.config.reference import explain_key
from nectargan.config.shipped import shipped_configs

SETTINGS = [each for each in train.params if isinstance(each, Setting)]


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            assert isinstance(command, Command)
            yield " ".join([*path, name]), command


LEAVES = dict(leaves(main))


def help_of(command: click.Command, *words: str) -> str:
    return CliRunner().invoke(command, [*words, "--help"], terminal_width=200).stdout


@pytest.mark.parametrize("option", SETTINGS, ids=lambda each: each.opts[-1])
def test_an_option_names_its_key_and_the_default_of_the_schema(option: Setting) -> None:
    key = explain_key(option.key)
    default = json.loads(key.default)
    # Also where the text begins below the name.
    _, _, rest = help_of(train).partition(f"{option.opts[-1]} ")
    line = re.split(r"\n +-", rest)[0]
    assert option.key in line
    if option.sets is not None:
        assert isinstance(default, bool)
        assert option.sets is not default, "it changes something"
        assert f"{option.key}={str(option.sets).lower()}" in line
    elif default in (None, ""):
        assert option.default_text == "" or option.default_text.startswith("$")
    else:
        assert option.default_text == str(default)
        assert f"default: {default}" in line


def test_the_length_of_the_run_has_its_default_too() -> None:
    defaults = [
        explain_key(f"train.generator.learning_rate.{name}").default
        for name in ("epochs", "epochs_decay")
    ]
    assert f"default: {' + '.join(defaults)}" in help_of(train)


def test_the_options_of_training_are_in_groups() -> None:
    headings = re.findall(r"^(\w.*):$", help_of(train), flags=re.MULTILINE)
    assert headings == [
        *(
            "Config",
            "Data and output",
            "Training",
            "MLflow and TensorBoard",
            "Resume and fork",
            "Several processes",
            "Sweep",
        ),
        *("Other options", "Examples"),
    ]
    for option in train.params:
        assert help_of(train).count(f"{option.opts[-1]} ") >= 1


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_has_examples_that_can_be_typed(name: str) -> None:
    command = LEAVES[name]
    assert len(command.examples) >= 2
    for example in command.examples:
        assert f"\n  {example}\n" in help_of(main, *name.split())
        # What a shell would do itself.
        words = shlex.split(re.split(r" [|>] ", example)[0])
        called = ["nectargan", *name.split()] if words[0] == "nectargan" else ["nectargan-train"]
        if name == "config list" and words[2] != "list":
            called = ["nectargan", "config", words[2]]
        assert words[: len(called)] == called
        target = LEAVES[" ".join(called[1:])] if len(called) > 1 else train
        # Parses the options and the arguments, and runs nothing.
        target.make_context(
            " ".join(called), words[len(called) :], help_option_names=["-h", "--help"]
        )


def test_a_flag_sets_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nectargan.cli import train as module

    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(module, "_check_csv", lambda csv, config: seen.append(config))
    options = "-c demo --no-mlflow --no-tensorboard --seed 0 --set common.seed=5 -n x --epochs 7"
    CliRunner().invoke(train, [*options.split(), "--batch-size", "3"])
    (config,) = seen
    assert not config.logging.mlflow.enable
    assert not config.logging.tensorboard.enable
    assert (config.common.seed, config.common.experiment_name) == (0, "x")
    assert (config.train.epochs, config.dataloader.batch_size) == (7, 3)


@pytest.mark.parametrize(
    ("command", "words", "incomplete", "completions"),
    [
        (main, ["config"], "s", ["schema", "show"]),
        (main, ["config", "show"], "fac", ["facades", "facades_scheduled"]),
        (main, ["schedule"], "", list(shipped_configs())),
        (train, ["-c"], "ma", ["maps"]),
        (train, [], "--mlflow", ["--mlflow-uri", "--mlflow-required"]),
        (train, ["--set"], "common.se", ["common.seed="]),
        (main, ["config", "explain"], "train.gan", ["train.gan_mode"]),
    ],
)
def test_what_a_shell_completes(
    command: click.Command, words: list[str], incomplete: str, completions: list[str]
) -> None:
    found = ShellComplete(command, {}, "nectargan", "_X").get_completions(words, incomplete)
    assert [each.value for each in found] == completions


@pytest.mark.parametrize(("words", "kind"), [(["watch"], "file"), (["config", "show"], "file")])
def test_paths_are_left_to_the_shell(words: list[str], kind: str) -> None:
    (found,) = ShellComplete(main, {}, "nectargan", "_X").get_completions(words, "./x")
    assert (found.type, found.value) == (kind, "./x")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_completion_of_bash_is_what_the_guide_says() -> None:
    folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    code = (
        'eval "$(_NECTARGAN_TRAIN_COMPLETE=bash_source nectargan-train)"\n'
        "COMP_WORDS=(nectargan-train -c fac); COMP_CWORD=2\n"
        "_nectargan_train_completion nectargan-train fac -c; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(
        ["bash", "-euc", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["facades", "facades_scheduled"]


@pytest.mark.parametrize(
    ("shell", "position", "answer"),
    [
        ("zsh", "2", "plain\nfacades\n_\nplain\nfacades_scheduled\n_"),
        ("fish", "fac", "plain,facades\nplain,facades_scheduled"),
    ],
)
def test_the_scripts_of_zsh_and_fish_get_lines_that_they_can_read(
    shell: str, position: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scripts set these variables: zsh gives the number of the word, fish the word itself."""
    kind = get_completion_class(shell)
    assert kind is not None
    complete = kind(train, {}, "nectargan-train", "_NECTARGAN_TRAIN_COMPLETE")
    assert "_NECTARGAN_TRAIN_COMPLETE" in complete.source()
    monkeypatch.setenv("COMP_WORDS", "nectargan-train -c fac")
    monkeypatch.setenv("COMP_CWORD", position)
    assert complete.complete() == answer
