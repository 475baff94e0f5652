"""Runs that are removed, moved, copied, or lost: on the disk and in MLflow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient

from nectargan.cli.main import main
from nectargan.config.schema import Config
from nectargan.errors import RunError
from nectargan.record.lock import locked
from nectargan.record.run_directory import RunDirectory
from nectargan.runs import relocation
from nectargan.runs.relocation import move_run, remove_run
from nectargan.runs.run_list import mlflow_troubles, summarize_runs
from nectargan.runs.sinks import synchronize
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

Make = Callable[..., Config]
MLFLOW = {"enable": True, "every_n_steps": 1, "log_model": False, "system_metrics": False}


@pytest.fixture(scope="module")
def trained(empty_store: Path, pairs_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output directory with two runs, to be copied."""
    from tests.conftest import TINY

    output = tmp_path_factory.mktemp("trained") / "runs"
    output.mkdir()
    shutil.copy(empty_store, output / "mlflow.db")
    for _ in range(2):
        config = Config.model_validate(TINY)
        config.common.output_directory = str(output)
        config.dataloader.dataroot = str(pairs_root)
        config.train.generator.learning_rate = type(config.train.generator.learning_rate)(
            epochs=1, epochs_decay=0
        )
        config.logging.mlflow = type(config.logging.mlflow).model_validate(MLFLOW)
        Pix2pixTrainer(config).train()
    return output


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """The same output directory, copied to a place of the test's own."""
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def client_of(output: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{output / 'mlflow.db'}")


def names(output: Path, view: int = ViewType.ACTIVE_ONLY) -> dict[str, Run]:
    client = client_of(output)
    experiment = client.get_experiment_by_name("tiny")
    found = client.search_runs([experiment.experiment_id], run_view_type=view)
    return {run.info.run_name: run for run in found}


def points(output: Path, run: Run) -> int:
    client = client_of(output)
    return sum(len(client.get_metric_history(run.info.run_id, key)) for key in run.data.metrics)


def cli(*arguments: object, answer: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], input=answer)
    return done.exit_code, done.output


def test_an_output_directory_elsewhere_has_its_artifacts(runs: Path) -> None:
    """Those of its runs are found, and new ones do not go to where it was."""
    assert synchronize(RunDirectory(runs / "tiny_v1")) == {"MLflow": False}
    client = client_of(runs)
    for run in names(runs).values():
        assert run.info.artifact_uri.startswith((runs / "mlartifacts").as_uri())
        assert {each.path for each in client.list_artifacts(run.info.run_id)} >= {"losses.csv"}
    assert mlflow_troubles(runs) == []


@pytest.mark.slow
def test_a_lost_database_gets_everything_anew(runs: Path, trained: Path) -> None:
    run = runs / "tiny_v1"
    before = points(trained, names(trained)["tiny_v1"])
    assert before > 50
    (runs / "mlflow.db").unlink()
    (summary, _) = summarize_runs(runs)
    assert summary.behind == ["MLflow"]
    assert "does not exist any more" in summary.trouble
    assert f"nectargan sync '{run}'" in summary.trouble
    assert not (runs / "mlflow.db").exists(), "looking makes none"
    assert synchronize(RunDirectory(run)) == {"MLflow": True}
    found = names(runs)
    assert found.keys() == {"tiny_v1"}
    assert points(runs, found["tiny_v1"]) == before
    assert found["tiny_v1"].info.status == "FINISHED"
    assert synchronize(RunDirectory(run)) == {"MLflow": False}
    # The other one is not in the new database, which is there.
    assert "MLflow has no run" in summarize_runs(runs)[1].trouble
    assert mlflow_troubles(runs) == [summarize_runs(runs)[1].trouble]


def test_a_copy_has_a_run_of_its_own(runs: Path) -> None:
    shutil.copytree(runs / "tiny_v1", runs / "copy")
    assert synchronize(RunDirectory(runs / "copy")) == {"MLflow": True}
    assert synchronize(RunDirectory(runs / "tiny_v1")) == {"MLflow": False}
    found = names(runs)
    assert found.keys() == {"tiny_v1", "tiny_v2", "copy"}
    assert points(runs, found["copy"]) == points(runs, found["tiny_v1"])
    assert found["copy"].data.tags["run_directory"] == str(runs / "copy")


def test_a_directory_that_was_renamed_keeps_its_run(runs: Path) -> None:
    before = names(runs)["tiny_v1"].info.run_id
    (runs / "tiny_v1").rename(runs / "best")
    (runs / "best" / "sinks" / "MLflow.json").unlink()
    assert synchronize(RunDirectory(runs / "best")) == {"MLflow": True}
    after = names(runs)
    assert after.keys() == {"best", "tiny_v2"}
    assert after["best"].info.run_id == before
    assert after["best"].data.tags["run_directory"] == str(runs / "best")


def test_a_deleted_run_is_told_and_sent_anew_on_demand(runs: Path) -> None:
    run, client = runs / "tiny_v1", client_of(runs)
    deleted = names(runs)["tiny_v1"].info.run_id
    client.delete_run(deleted)
    with pytest.raises(RunError, match=f"was deleted; restore it with: .*--run-id {deleted}; or"):
        synchronize(RunDirectory(run))
    assert f"nectargan sync '{run}' --new-run" in summarize_runs(runs)[0].trouble
    assert "tiny_v1" not in names(runs)
    code, output = cli("sync", run, "--new-run")
    assert code == 0
    assert output.splitlines() == [
        "MLflow: has everything now.",
        "TensorBoard: the run does not log to it.",
    ]
    assert points(runs, names(runs)["tiny_v1"]) == points(runs, client.get_run(deleted))


def test_a_deleted_experiment_is_told(runs: Path, tiny: Make) -> None:
    client = client_of(runs)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    client.delete_experiment(experiment)
    told = f"The MLflow experiment 'tiny' was deleted; restore it with: .*-id {experiment}; or"
    with pytest.raises(RunError, match=told):
        synchronize(RunDirectory(runs / "tiny_v1"))
    (trouble,) = mlflow_troubles(runs)
    assert "experiment 'tiny' was deleted" in trouble
    with pytest.raises(RunError, match=told):
        Pix2pixTrainer(tiny(logging__mlflow={**MLFLOW, "required": True})).train()
    assert not (runs / "tiny_v3").exists(), "nothing is left half-made"


def test_rm_removes_a_run_everywhere(runs: Path) -> None:
    assert cli("rm", runs / "tiny_v1", answer="n\n")[0] == 0
    assert (runs / "tiny_v1").is_dir()
    code, output = cli("rm", runs / "tiny_v1", answer="y\n")
    assert code == 0, output
    assert "(FINISHED)" in output
    assert not (runs / "tiny_v1").exists()
    assert names(runs).keys() == {"tiny_v2"}
    assert names(runs, ViewType.DELETED_ONLY).keys() == {"tiny_v1"}
    assert not list(runs.glob(".*removed*"))
    assert cli("rm", "--yes", "--no-mlflow", runs / "tiny_v2")[0] == 0
    assert names(runs).keys() == {"tiny_v2"}


def test_rm_is_whole_or_not_at_all(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(runs / "tiny_v1"), pytest.raises(RunError, match="is in use"):
        remove_run(RunDirectory(runs / "tiny_v1"))
    with pytest.raises(RunError, match="is not a run directory"):
        remove_run(RunDirectory(runs))

    def fail(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(RunError, match="cannot be removed: Permission denied"):
        remove_run(RunDirectory(runs / "tiny_v1"))
    monkeypatch.undo()
    assert names(runs).keys() == {"tiny_v1", "tiny_v2"}
    assert (runs / "tiny_v1" / "losses.csv").exists()
    config = json.loads((runs / "tiny_v1" / "config.json").read_text())
    config["logging"]["mlflow"]["tracking_uri"] = "http://127.0.0.1:9"
    (runs / "tiny_v1" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="nothing was changed"):
        remove_run(RunDirectory(runs / "tiny_v1"))
    assert (runs / "tiny_v1" / "losses.csv").exists()


def test_rm_asks_and_needs_an_answer(runs: Path) -> None:
    run = runs / "tiny_v1"
    for answer, code, told in (
        ("", 2, "Standard input is closed; give --yes to remove without asking."),
        ("\n", 0, "[y/N]: "),
        ("no\n", 0, "[y/N]: "),
        ("y\n", 0, f"Removed {run}."),
    ):
        ended, output = cli("rm", run, "--no-mlflow", answer=answer)
        assert ended == code, output
        assert told in output
        assert run.exists() == (answer != "y\n")


def test_mv_renames_a_run_everywhere(runs: Path) -> None:
    before = names(runs)["tiny_v1"].info.run_id
    code, output = cli("mv", runs / "tiny_v1", "best")
    assert (code, output) == (0, f"Moved {runs / 'tiny_v1'} to {runs / 'best'}.\n")
    assert not (runs / "tiny_v1").exists()
    after = names(runs)
    assert after.keys() == {"best", "tiny_v2"}
    assert after["best"].info.run_id == before
    assert synchronize(RunDirectory(runs / "best")) == {"MLflow": False}
    assert mlflow_troubles(runs) == []


def test_mv_to_another_output_directory_takes_the_mlflow_run_along(
    runs: Path, empty_store: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(empty_store, other / "mlflow.db")
    count = points(runs, names(runs)["tiny_v1"])
    assert move_run(RunDirectory(runs / "tiny_v1"), other / "best") == other / "best"
    assert names(runs).keys() == {"tiny_v2"}
    assert names(other).keys() == {"best"}
    assert points(other, names(other)["best"]) == count


def test_mv_is_whole_or_not_at_all(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs / "tiny_v1"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="exists already; give another name"):
        move_run(RunDirectory(run), Path("tiny_v2"))
    for place in (tmp_path / "nowhere" / "x", run / "inside"):
        with pytest.raises(RunError, match="there is no such directory"):
            move_run(RunDirectory(run), place)
    for name in ("=1+1", "a\nb", "\x1b[31m", "\udcff"):
        with pytest.raises(RunError, match="A run cannot be named"):
            move_run(RunDirectory(run), Path(name))
    with locked(run), pytest.raises(RunError, match="is in use"):
        move_run(RunDirectory(run), Path("best"))

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(MlflowClient, "set_tag", fail)
    with pytest.raises(RunError, match="gone; nothing was changed"):
        move_run(RunDirectory(run), Path("best"))
    monkeypatch.undo()
    monkeypatch.setattr(relocation, "synchronize", fail)
    (tmp_path / "other").mkdir()
    with pytest.raises(ConnectionError):
        move_run(RunDirectory(run), tmp_path / "other" / "best")
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    after.pop(run / ".lock")
    before.pop(run / ".lock", None)
    known = run / "mlflow_run.json"
    assert after.keys() == before.keys()
    assert {k: v for k, v in after.items() if k != known} == {
        k: v for k, v in before.items() if k != known
    }
    assert names(runs).keys() == {"tiny_v1", "tiny_v2"}
    assert synchronize(RunDirectory(run)) == {"MLflow": False}
