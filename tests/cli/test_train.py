from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest

from nectargan.config.config_manager import ConfigManager
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_generator, load_last
from nectargan.runs.sinks import synchronize
from nectargan.shell import quoted
from tests.processes import PATIENCE, wait_until

from .conftest import CheckRefused, Run


def only_run(tmp_path: Path) -> Path:
    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    return run


def test_a_run_from_a_config(run: Run, config_file: Path, tmp_path: Path) -> None:
    result = run("train", "-c", config_file)
    assert result.exit_code == 0, result.output
    directory = only_run(tmp_path)
    assert directory.name == "tiny_v1"
    assert "MLflow" not in result.stdout
    epochs = [line for line in result.stdout.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == ["1/2", "2/2"]
    assert load_generator(directory).training is False


def test_every_flag_reaches_the_config(
    run: Run, config_file: Path, tmp_path: Path, pairs_root: Path
) -> None:
    flags = {
        "--data": pairs_root,
        "--output": tmp_path / "elsewhere",
        "--name": "other",
        "--epochs": 6,
        "--batch-size": 3,
        "--device": "cpu",
        "--precision": "bf16",
        "--seed": 9,
        "--loss-subspec": "extended",
        "--mlflow-uri": f"sqlite:///{tmp_path / 'x.db'}",
    }
    result = run("train", "-c", config_file, "--dry-run", *(a for kv in flags.items() for a in kv))
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout[: result.stdout.rindex("}") + 1])
    assert config["dataloader"]["dataroot"] == str(pairs_root)
    assert config["dataloader"]["batch_size"] == 3
    common = config["common"]
    assert common["output_directory"] == str(tmp_path / "elsewhere")
    assert (common["experiment_name"], common["seed"]) == ("other", 9)
    assert (common["device"], common["precision"]) == ("cpu", "bf16")
    assert config["train"]["objective"] == "extended"
    assert config["train"]["loss"]["G_SOBEL"] == 3.0
    lr = config["train"]["generator"]["learning_rate"]
    assert (lr["epochs"], lr["epochs_decay"]) == (3, 3)
    assert config["logging"]["mlflow"]["tracking_uri"] == flags["--mlflow-uri"]


def test_flag_over_set_over_file_over_default(run: Run, config_file: Path) -> None:
    def seed(*arguments: object) -> tuple[int, int]:
        result = run("train", "-c", config_file, "--dry-run", *arguments)
        config = json.loads(result.stdout[: result.stdout.rindex("}") + 1])
        return config["common"]["seed"], config["dataloader"]["load"]["load_size"]

    assert seed() == (0, 36)
    assert seed("--set", "common.seed=1", "--set", "common.seed=2") == (2, 36)
    assert seed("--seed", 5, "--set", "common.seed=1") == (5, 36)
    assert seed("--set", "dataloader.load.load_size=[40,44]") == (0, [40, 44])


def test_a_schedule_may_be_set(run: Run, config_file: Path, tmp_path: Path) -> None:
    ramp = (
        '{"schedule": "linear", "start_epoch": 1, "end_epoch": 2, '
        '"initial_value": 8, "target_value": 2}'
    )
    assert run("train", "-c", config_file, "--set", f"train.loss.G_L1={ramp}").exit_code == 0
    losses = pd.read_csv(only_run(tmp_path) / "losses.csv")
    weights = losses[losses["loss"] == "G_L1"].groupby("epoch")["weight"].unique()
    assert [list(w) for w in weights] == [[8.0], [2.0]]


def test_a_dry_run_writes_nothing(run: Run, config_file: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = run("train", "-c", config_file, "--dry-run")
    assert result.exit_code == 0
    assert "train: 6 pairs" in result.stdout
    assert "2 epochs of 3 steps on cpu in fp32" in result.stdout
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["history.tsv", "history.csv.gz", "history.parquet"])
def test_the_csv_copy_is_what_its_name_says(
    run: Run, config_file: Path, tmp_path: Path, name: str
) -> None:
    assert run("train", "-c", config_file, "--csv", name).exit_code == 0
    read = {"tsv": partial(pd.read_csv, sep="\t"), "parquet": pd.read_parquet}
    table = read.get(name.rpartition(".")[2], pd.read_csv)(name)
    ledger = pd.read_csv(only_run(tmp_path) / "losses.csv")
    # Parquet has the 32 bits that the ledger's text stands for.
    assert table["raw"].astype("float32").tolist() == ledger["raw"].astype("float32").tolist()
    assert table.columns.tolist() == ledger.columns.tolist()


def test_the_csv_copy(run: Run, config_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "history.csv"
    assert run("train", "-c", config_file, "--csv", copy).exit_code == 0
    assert copy.read_bytes() == (only_run(tmp_path) / "losses.csv").read_bytes()
    assert pd.read_csv(copy)["step"].max() == 6


def test_sinks_can_be_switched_off(run: Run, config_file: Path, tmp_path: Path) -> None:
    document = json.loads(config_file.read_text())
    document["logging"]["mlflow"]["enable"] = document["logging"]["tensorboard"]["enable"] = True
    config_file.write_text(json.dumps(document))
    result = run("train", "-c", config_file, "--no-mlflow", "--no-tensorboard")
    assert result.exit_code == 0
    config = ConfigManager(only_run(tmp_path) / "config.json").data
    assert not config.logging.mlflow.enable
    assert not config.logging.tensorboard.enable
    assert "nectargan ui" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config", "nowhere.json"], "config file 'nowhere.json' cannot be read"),
        (["--set", "train.generator.featurs=3"], "Did you mean 'features'?"),
        (["--set", "train.generator.features=-3"], "--set train.generator.features cannot be -3"),
        (["--set", "train.generator.features=many"], 'cannot be "many"'),
        (["--set", "common.seed"], "'common.seed' is not of the form section.key=value"),
        (["--set", "train.loss.G_LI=3"], "Did you mean 'G_L1'?"),
        (["--set", 'train.loss.G_L1={"schedule":"lineal"}'], "Did you mean 'linear'?"),
        (["--data", "nowhere"], "nowhere: no such directory"),
        (["--device", "cuda:77"], "common.device is 'cuda:77'"),
        (["--set", "dataloader.load.crop_size=30"], "multiple of 8"),
        (["--set", "dataloader.load.load_size=20"], "larger than load_size"),
        (["--precision", "fp8"], "'fp8' is not one of"),
        (["--epochs", "0"], "'0' is not a whole number of 1 or more"),
        (["--seed", "x"], "'x' is not a whole number of 0 or more"),
        (["--mlflow-uri", "no.such.scheme:5000"], "Error: --mlflow-uri cannot be"),
        (["--csv", "no/such/folder/x.csv"], "or its directory does not exist"),
        (["--csv", "x.xlsx"], "'x.xlsx' cannot be written: a table ends in .csv, .tsv,"),
        (["--output", "$NOT_SET_HERE/runs"], "'$NOT_SET_HERE/runs': $NOT_SET_HERE is not set."),
        (["--set", "common.output_directory=$NOT_SET_HERE"], "'$NOT_SET_HERE': $NOT_SET_HERE is"),
        (["--output", "~no-such-user-here"], "there is no user 'no-such-user-here'"),
        (["--resume", "no*"], "'no*' matches no run directory"),
        (["--data", "no*"], "'no*' matches nothing"),
        (["--set", "logging.csv=false", "--csv", "x.csv"], "logging.csv=false"),
        (["--name", "../up"], '--name cannot be "../up"'),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    check_refused: CheckRefused, arguments: list[str], sentence: str
) -> None:
    check_refused(arguments, sentence)


def test_every_mistake_of_a_config_is_on_a_line_of_its_own(run: Run, config_file: Path) -> None:
    document = json.loads(config_file.read_text())
    document["train"]["generator"]["features"] = -3
    document["trian"] = {}
    config_file.write_text(json.dumps(document))
    result = run("train", "-c", config_file, "--set", "common.sed=1")
    assert (result.exit_code, result.stdout) == (2, "")
    first, *problems = result.stderr.splitlines()
    assert first == f"Error: The config file '{config_file}' cannot be used, 3 problems:"
    for start in ("--set common.sed is not", "train.generator.features in", "trian in"):
        assert [line for line in problems if line.startswith(f"  {start}")], problems


def test_old_configs_warn_in_a_line_each(run: Run, pairs_root: Path, tmp_path: Path) -> None:
    old = {"config": {"train": {"loss": {"lambda_gan": 1.0, "lambda_l1": 50.0}}, "visualizer": {}}}
    (tmp_path / "old.json").write_text(json.dumps(old))
    result = run("train", "-c", tmp_path / "old.json", "-d", pairs_root, "--dry-run")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    # The objective, two losses, five on the networks, the visualizer.
    assert len(lines) == 9
    assert all(line.startswith("Warning: v0.2.3 config: ") for line in lines)


# --- real processes and signals ----------------------------------------------------------------


@contextmanager
def endless(config_file: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run that would take hours, once it has made its first epoch."""
    command = [sys.executable, "-m", "nectargan.cli.train", "-c", str(config_file)]
    process = subprocess.Popen(
        [*command, "--epochs", "100000", "--set", "save.save_model=false", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("epoch 2/"):
            assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_cleanly(
    config_file: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    from mlflow.tracking import MlflowClient

    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow = ("--set", "logging.mlflow.enable=true", "--mlflow-uri", database)
    with endless(config_file, *mlflow, "--set", "dataloader.num_workers=1") as process:
        # MLflow's import and its tables take longer than an epoch.
        known = tmp_path / "runs" / "tiny_v1" / "mlflow_run.json"
        wait_until(
            lambda: known.exists() and json.loads(known.read_text())["run_id"],
            alive=lambda: process.poll() is None,
        )
        os.killpg(process.pid, number)  # to its workers as well, as a terminal does
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert "Traceback" not in err
    losses = pd.read_csv(only_run(tmp_path) / "losses.csv")
    steps = losses["step"].unique()
    assert list(steps) == list(range(1, len(steps) + 1))
    assert set(losses["step"].value_counts()) == {4}, "every step is whole"
    assert "pandas:" in out
    if "nectargan sync" in err:  # a busy machine: five seconds were not enough
        synchronize(RunDirectory(only_run(tmp_path)))
    client = MlflowClient(database)
    experiment = client.get_experiment_by_name("tiny")
    (mlrun,) = client.search_runs([experiment.experiment_id])
    assert mlrun.info.status == "KILLED"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupted_run_is_saved_and_does_not_wait_long_for_a_silent_server(
    config_file: Path, tmp_path: Path
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        # Whoever waited for the server would wait for longer than this test does.
        flags = ["--set", "logging.mlflow.enable=true", "--mlflow-uri", uri]
        flags += ["--set", "logging.drain_seconds=3600"]
        with endless(config_file, *flags, "--set", "save.save_model=true") as process:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    run = only_run(tmp_path)
    assert err.splitlines()[-1].endswith(f"to send the rest: nectargan sync {quoted(run)}")
    checkpoint = load_last(RunDirectory(run))
    assert checkpoint["step"] == pd.read_csv(run / "losses.csv")["step"].max()
    assert RunDirectory(run).read_status() == ("KILLED", "")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_closed_terminal_saves_the_run(config_file: Path, tmp_path: Path) -> None:
    flags = ["--set", "save.save_model=true", "--set", "dataloader.cache=off"]
    with endless(config_file, *flags, "--set", "dataloader.num_workers=1") as process:
        os.killpg(process.pid, signal.SIGHUP)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (129, "")
    run = only_run(tmp_path)
    assert RunDirectory(run).read_status() == ("KILLED", "")
    assert load_last(RunDirectory(run))["step"] == pd.read_csv(run / "losses.csv")["step"].max()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes of Linux")
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_what_a_killed_run_leaves_alive_keeps_no_lock(
    config_file: Path, tmp_path: Path, start_method: str
) -> None:
    """Its workers are stopped before, so that they are there for sure when it goes on."""
    code = (
        f"import multiprocessing\nif __name__ == '__main__':\n"
        f"    multiprocessing.set_start_method('{start_method}')\n"
        "    from nectargan.cli.train import train\n    train()\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    config = ["--resume", "auto", "-c", str(config_file), "--set", "save.every_minutes=1e-9"]
    config += ["--set", "dataloader.num_workers=2", "--set", "dataloader.cache=off"]
    command = [sys.executable, str(script), *config, "--epochs"]
    process = subprocess.Popen(
        [*command, "100000"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    left = []
    try:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("epoch 2/"):
            assert process.poll() is None
        left = psutil.Process(process.pid).children(recursive=True)
        assert len(left) >= 2
        for each in left:
            each.suspend()
        process.kill()
        process.wait()
        assert all(each.is_running() for each in left)
        epochs = str(load_last(RunDirectory(only_run(tmp_path)))["epoch"] + 2)
        done = subprocess.run([*command, epochs], capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")
    finally:
        process.kill()
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    assert RunDirectory(only_run(tmp_path)).status == "FINISHED"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_second_ctrl_c_ends_at_once(config_file: Path, tmp_path: Path) -> None:
    """A loss that takes an hour stands for a step that hangs."""
    in_step = tmp_path / "in_step"
    slow = {"function": "tests.cli.slow_loss.SlowLoss", "arguments": {"mark": str(in_step)}}
    config = json.loads(config_file.read_text())
    config["train"]["loss"]["G_SLOW"] = slow
    config_file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "nectargan.cli.train", "-c", str(config_file)]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=root)
    try:
        wait_until(in_step.exists, alive=lambda: process.poll() is None)
        process.send_signal(signal.SIGINT)
        time.sleep(1)  # two signals at once would be one
        assert process.poll() is None, "the first one waits for the step"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    run = only_run(tmp_path)
    assert RunDirectory(run).read_status() == ("KILLED", "")
    assert list(run.glob("checkpoints/*")) == [], "half a step is no state to go on from"
