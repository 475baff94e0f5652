from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from PIL import Image

from nectargan.record.run_directory import RunDirectory
from tests.processes import PATIENCE

from .conftest import CheckRefused, Run

TRAIN = [sys.executable, "-m", "nectargan.cli.train"]


def weight_of(run: Path) -> float:
    config = json.loads((run / "config.json").read_text())
    return float(config["train"]["loss"]["G_L1"])


def rows_of(output: str) -> list[list[str]]:
    """The cells of a table's body."""
    lines = [line for line in output.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


@pytest.mark.slow
def test_a_grid_and_the_same_command_again(run: Run, config_file: Path, tmp_path: Path) -> None:
    sweep = ["--sweep", "train.loss.G_L1=10,50"]
    schedules = ["--sweep", "train.loss.G_GAN=linear 0->1 @ 1-20,1.0"]
    result = run("train", "-c", config_file, *sweep, *schedules)
    assert result.exit_code == 0, result.output
    heads = [line for line in result.stdout.splitlines() if line.startswith("Run ")]
    assert heads == [
        "Run 1 of 4: G_L1=10  G_GAN=linear 0->1 @ 1-20",
        "Run 2 of 4: G_L1=10  G_GAN=1.0",
        "Run 3 of 4: G_L1=50  G_GAN=linear 0->1 @ 1-20",
        "Run 4 of 4: G_L1=50  G_GAN=1.0",
    ]
    assert result.stdout.count("Training in ") == 4
    runs = [tmp_path / "runs" / f"tiny_v{n}" for n in range(1, 5)]
    assert [weight_of(each) for each in runs] == [10, 10, 50, 50]
    groups = {
        json.loads((r / "config.json").read_text())["logging"]["mlflow"]["group"] for r in runs
    }
    assert groups == {"tiny_sweep_G_L1_G_GAN"}
    rows = rows_of(result.stdout)
    assert [row[:3] for row in rows] == [
        ["10", "linear 0->1 @ 1-20", "FINISHED"],
        ["10", "1.0", "FINISHED"],
        ["50", "linear 0->1 @ 1-20", "FINISHED"],
        ["50", "1.0", "FINISHED"],
    ]
    best = max(rows, key=lambda row: float(row[3]))
    assert float(rows[[row[4] for row in rows].index(best[4])][3]) > 0
    assert re.search(r"^Best: .*tiny_v\d$", result.stdout, re.MULTILINE)
    picture = tmp_path / "runs" / "tiny_sweep_G_L1_G_GAN_compare.png"
    assert f"Drew {picture}." in result.stdout
    assert result.stdout.splitlines()[-1].endswith(f"nectargan ui {tmp_path / 'runs'}")
    assert Image.open(picture).width > 300

    # What is new is trained, and nothing else.
    result = run("train", "-c", config_file, "--sweep", "train.loss.G_L1=10,30,50", *schedules)
    assert result.exit_code == 0
    assert result.stdout.count("Training in ") == 2
    assert [row[4] for row in rows_of(result.stdout)] == [
        *("tiny_v1", "tiny_v2", "tiny_v5", "tiny_v6", "tiny_v3", "tiny_v4")
    ]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_killed_sweep_is_resumed(
    run: Run, config_file: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    epochs = ["--epochs", "20", "--set", "save.save_examples=false"]
    arguments = ["-c", str(config_file), *epochs, "--sweep", "train.loss.G_L1=10,30,50"]
    process = subprocess.Popen(
        [*TRAIN, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        line = ""
        # Some epochs into the second run.
        while not line.startswith("Run 2 of 3"):
            line = process.stdout.readline()
            assert process.poll() is None
        while not line.startswith("epoch 3/"):
            line = process.stdout.readline()
            assert process.poll() is None
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == code
    assert "Run the same command again to continue the sweep.\n" in err
    assert "Traceback" not in err
    first, second = (tmp_path / "runs" / f"tiny_v{n}" for n in (1, 2))
    assert (RunDirectory(first).status, RunDirectory(second).status) == ("FINISHED", "KILLED")
    assert not (tmp_path / "runs" / "tiny_v3").exists()

    states = [row[1] for row in rows_of(run("train", *arguments, "--dry-run").stdout)]
    assert states == ["FINISHED", "UNFINISHED", "NEW"]
    before = (first / "losses.csv").read_bytes()
    result = run("train", *arguments)
    assert result.exit_code == 0, result.output
    assert [row[1:4:2] for row in rows_of(result.stdout)] == [
        ["FINISHED", "tiny_v1"],
        ["FINISHED", "tiny_v2"],
        ["FINISHED", "tiny_v3"],
    ]
    assert (first / "losses.csv").read_bytes() == before
    assert (second / "resumptions.jsonl").exists()
    assert [weight_of(tmp_path / "runs" / f"tiny_v{n}") for n in (1, 2, 3)] == [10, 30, 50]


def test_a_run_that_fails_stops_no_other(run: Run, config_file: Path, tmp_path: Path) -> None:
    rates = "train.generator.learning_rate.initial=1e30,0.001"
    result = run("train", "-c", config_file, "--sweep", rates, "--set", "logging.window_steps=1")
    assert result.exit_code == 1
    failed, *_, finished = rows_of(result.stdout)
    assert failed[1].startswith("FAILED: Loss 'G_GAN' is nan")
    assert finished[1] == "FINISHED"
    assert result.stderr.endswith("1 run failed.\n")
    assert "Traceback" not in result.output
    assert [RunDirectory(tmp_path / "runs" / f"tiny_v{n}").status for n in (1, 2)] == [
        *("FAILED", "FINISHED")
    ]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="two processes at once on SQLite")
def test_two_processes_share_a_study(config_file: Path, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    search = ["--sweep-search", "optuna", "--trials", "4", "--sweep-storage", storage]
    processes = [
        subprocess.Popen(
            [*TRAIN, "-c", str(config_file), "--sweep", "train.loss.G_L1=1..9", *search],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    study = optuna.load_study(study_name="tiny_sweep_G_L1", storage=storage)
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    assert 4 <= len(study.trials) <= 5, "both may begin the last one"
    weights = [trial.params["train.loss.G_L1"] for trial in study.trials]
    assert sorted(map(weight_of, (tmp_path / "runs").glob("tiny_v*"))) == sorted(weights)
    assert len(set(weights)) == len(weights)
    for output in outputs:
        assert "[I " not in output, "Optuna does not chat"
        assert re.search(r"^Best: ", output, re.MULTILINE)


def test_a_search(run: Run, config_file: Path, tmp_path: Path) -> None:
    arguments = [
        *("train", "-c", config_file, "--group", "mine", "--sweep-search", "optuna"),
        *("--sweep", "train.loss.G_L1=1..100:log", "--sweep", "dataloader.batch_size=1..3"),
        *("--metric", "val/l1"),
    ]
    result = run(*arguments, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "20 trials of study 'mine', for the best val/l1." in result.stdout
    assert not (tmp_path / "runs").exists()
    result = run(*arguments, "--trials", 2)
    assert result.exit_code == 0, result.output
    rows = rows_of(result.stdout)
    assert [row[2] for row in rows] == ["FINISHED"] * 2
    best = min(rows, key=lambda row: float(row[3]))
    shown = f"Best: {tmp_path / 'runs' / best[4]}"
    assert shown in result.stdout or rows[0][3] == rows[1][3]
    assert (tmp_path / "runs" / "mine_compare.png").exists()
    assert (tmp_path / "runs" / "optuna.db").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sweep", "train.loss.G_L1"], "is not of the form section.key=value,value"),
        (["--sweep", "train.loss.G_L1="], "has an empty value"),
        (["--sweep", "common.seed=1", "--sweep", "common.seed=2"], "gives common.seed twice"),
        (["--sweep", "train.loss.G_LI=1,2"], "Did you mean 'G_L1'?"),
        (["--sweep", "train.los.G_L1=1,2"], "--sweep train.los is not a known key"),
        (["--sweep", "train.generator.features=4,many"], 'cannot be "many"'),
        (["--sweep", "train.loss.G_L1=1..9"], "is a range, which needs --sweep-search"),
        (
            ["--sweep", "common.seed=1,2", "--resume", "auto"],
            "--sweep and --resume cannot be combined",
        ),
        (["--sweep", "common.seed=1,2", "--csv", "x.csv"], "--csv is for a single run"),
        (["--sweep", "common.seed=1,2", "--data", "nowhere"], "nowhere: no such directory"),
        (["--sweep", "common.seed=1,2", "--trials", "3"], "--trials needs --sweep-search"),
        (
            ["--sweep", "common.seed=1,2", "--sweep-storage", "x"],
            "--sweep-storage needs --sweep-search",
        ),
        (["--sweep-search", "optuna"], "--sweep-search needs --sweep."),
        (["--metric", "val/l1"], "--metric needs --sweep."),
        (
            ["--sweep", "common.seed=1,2", "--metric", "val/fid"],
            "--metric val/fid is not measured. Did you mean 'val/ssim'? Allowed: val/l1, val/psnr,",
        ),
        (["--sweep", "common.seed=1,2", "--sweep-search", "grid"], "'grid' is not 'optuna'"),
        (["--sweep", "common.seed=1,2", "--config", "nowhere.json"], "cannot be read"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    check_refused: CheckRefused, arguments: list[str], sentence: str
) -> None:
    check_refused(arguments, sentence)


def test_a_command_for_each_run(run: Run, config_file: Path) -> None:
    sweep = ["--sweep", "train.loss.G_L1=10,50", "--sweep=train.loss.G_GAN=linear 0->1 @ 1-2,1"]
    result = run("train", "-c", config_file, *sweep, "--batch-size", 1, "--print-commands")
    assert result.exit_code == 0, result.output
    lines = [shlex.split(line) for line in result.stdout.splitlines()]
    assert [line[1:] for line in lines] == [
        [
            *("-c", str(config_file), "--batch-size", "1"),
            *("--sweep", f"train.loss.G_L1={weight}", "--sweep", f"train.loss.G_GAN={other}"),
        ]
        for weight in ("10", "50")
        for other in ("linear 0->1 @ 1-2", "1")
    ]
    assert not list(Path().iterdir())
    one = run("train", *lines[1][1:], "--dry-run")
    assert one.exit_code == 0, one.output
    assert rows_of(one.stdout)[0][:3] == ["10", "1", "NEW"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--workers 2", "--workers needs --sweep"),
        ("--print-commands", "--print-commands needs --sweep"),
        ("--sweep train.loss.G_L1=1,2 --workers 0", "--workers 0 is neither 'auto' nor a whole"),
        (
            "--sweep train.loss.G_L1=1,2 --workers 2 --print-commands",
            "--print-commands and --workers cannot be combined",
        ),
        (
            "--sweep train.loss.G_L1=1..2 --sweep-search optuna --workers 0",
            "--workers 0 is neither 'auto' nor a whole",
        ),
        (
            "--sweep train.loss.G_L1=1..2 --sweep-search optuna --print-commands",
            "--print-commands is for a grid: a search chooses values by the results",
        ),
    ],
)
def test_workers_that_cannot_be(run: Run, config_file: Path, arguments: str, message: str) -> None:
    result = run("train", "-c", config_file, *arguments.split())
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(Path().iterdir())
