"""A search of several machines in a database of a real server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import RunError
from nectargan.record.output_directory import list_runs
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.resume import Resumption
from nectargan.sweeps import trial_owner
from nectargan.sweeps.axes import parse_axes
from nectargan.sweeps.grid import GridPoint
from nectargan.sweeps.search import Search
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.database_servers import PASSWORD, mariadb, postgresql
from tests.processes import PATIENCE

AXIS = "train.loss.G_L1=1..100"

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")


@pytest.fixture(scope="module", params=[postgresql, mariadb])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    server: Callable[[], AbstractContextManager[str]] = request.param
    with server() as found:
        yield found


@pytest.fixture
def config(tiny: Callable[..., Config]) -> Config:
    return tiny(train__generator__learning_rate={"epochs": 1, "epochs_decay": 0})


def opened(config: Config, address: str, group: str) -> Search:
    base = config.model_dump(mode="json")

    def resolve(overrides: list[tuple[str, str]]) -> Config:
        return ConfigManager(base, [*overrides, ("logging.mlflow.group", group)]).data

    search = Search(parse_axes([AXIS]), resolve, "val/ssim", address)
    search.open()
    return search


def silent(number: int, point: GridPoint) -> None:
    pass


def test_two_machines_make_the_trials_of_one_study(
    config: Config, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (opened(config, address, "two") for _ in range(2))
    made = []

    def of_second(config: Config, resumption: Resumption | None) -> RunDirectory:
        return Pix2pixTrainer(config, resumption).train()

    def of_first(config: Config, resumption: Resumption | None) -> RunDirectory:
        # While this run is in training, another machine trains two of the three.
        with monkeypatch.context() as patch:
            patch.setattr(trial_owner, "machine_id", lambda: "another")
            made.extend(second.run(3, of_second, silent))
        return Pix2pixTrainer(config, resumption).train()

    made.extend(first.run(3, of_first, silent))
    assert [trial.state for trial in first.trials()] == ["COMPLETE"] * 3
    assert first.trials() == second.trials()
    assert len({outcome.point.values["train.loss.G_L1"] for outcome in made}) == 3


@pytest.mark.parametrize("wrong", ["password", "database", "port"])
def test_what_cannot_be_reached_is_one_sentence_without_the_password(
    config: Config, address: str, wrong: str
) -> None:
    head, _, rest = address.rpartition(":")
    bad = {
        "password": address.replace(PASSWORD, "other-word-8"),
        "database": address.replace("/studies", "/no_such_one"),
        "port": f"{head}:9/{rest.partition('/')[2]}",
    }[wrong]
    with pytest.raises(
        RunError, match=r"^Optuna's storage '\w+://127\.0\.0\.1:\d+/\w+' cannot be used: ."
    ) as caught:
        opened(config, bad, "bad")
    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert "other-word-8" not in str(caught.value)
    assert not Path(config.common.output_directory).exists()


@pytest.mark.slow
def test_two_commands_at_once_make_exactly_the_trials_asked_for(
    config: Config, address: str, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(config.model_dump_json())
    words = ["-c", path, "--sweep", AXIS, "--sweep-search", "optuna", "--trials", "5"]
    command = [
        sys.executable,
        "-m",
        "nectargan.train",
        *map(str, words),
        "--sweep-storage",
        address,
    ]
    commands = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    try:
        told = [each.communicate(timeout=PATIENCE)[0] for each in commands]
    finally:
        for each in commands:
            each.kill()
            each.wait()
    assert [each.returncode for each in commands] == [0, 0], told
    assert not any(PASSWORD in text for text in told)
    runs = list_runs(Path(config.common.output_directory), "tiny")
    assert [run.status for run in runs] == ["FINISHED"] * 5
