"""Which store, and how its database comes to be."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from nectargan.errors import RunError
from nectargan.loggers.mlflow import store as mlflow_store
from nectargan.loggers.mlflow.client import check_reachable
from nectargan.loggers.mlflow.sink import MLflowSink
from nectargan.loggers.mlflow.store import (
    database_of,
    find_experiment,
    find_store,
    prepare_database,
    sqlite_uri,
)
from nectargan.record.follower import Point

TEAM = "http://ada:sesame@team:5000/x"
BARE = "http://team:5000/x"
FOLDERS = ["my%20runs", "what?runs", "a#b", "two words", "ünï 写真", "50%?#", "a@b:c"]


@pytest.mark.parametrize(
    ("named", "variable", "is_new", "uri", "why"),
    [
        (None, None, True, "DEFAULT", "the default"),
        (None, "", True, "DEFAULT", "the default"),
        (None, TEAM, True, TEAM, "MLFLOW_TRACKING_URI"),
        (None, TEAM, False, "DEFAULT", "the default"),
        ("http://h", TEAM, True, "http://h", "logging.mlflow.tracking_uri"),
        # What a config keeps of an address has no password; the variable has it.
        (BARE, TEAM, False, TEAM, "MLFLOW_TRACKING_URI"),
        (BARE, None, False, BARE, "logging.mlflow.tracking_uri"),
        # As earlier versions wrote it.
        ("http://***@team:5000/x", None, False, BARE, "logging.mlflow.tracking_uri"),
        ("http://***@team:5000/x", TEAM, False, TEAM, "MLFLOW_TRACKING_URI"),
        ("***", TEAM, False, TEAM, "MLFLOW_TRACKING_URI"),
        (None, "databricks", True, "databricks", "MLFLOW_TRACKING_URI"),
    ],
)
def test_option_variable_default(
    named: str | None,
    variable: str | None,
    is_new: bool,
    uri: str,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    uri = uri.replace("DEFAULT", f"sqlite:///{tmp_path / 'mlflow.db'}")
    store = find_store(named, tmp_path, is_new)
    assert store == (uri, why)
    assert "sesame" not in str(store)


def test_a_file_is_the_same_from_every_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_store("sqlite:///a.db", Path()).uri == f"sqlite:///{tmp_path}/a.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///b.db?timeout=60")
    assert find_store(None, Path()).uri == f"sqlite:///{tmp_path}/b.db?timeout=60"


@pytest.mark.parametrize(
    "variable", ["./mlruns", "file:///tmp/mlruns", "//ada:sesame@h", "htp://h"]
)
def test_a_variable_with_an_invalid_address(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    with pytest.raises(RunError, match=r"^MLFLOW_TRACKING_URI cannot be '.*must begin") as raised:
        find_store(None, tmp_path)
    assert "sesame" not in str(raised.value)


def test_an_address_that_was_not_kept(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="give it again with --mlflow-uri or MLFLOW_TRACKING_URI"):
        find_store("***", tmp_path)


@pytest.mark.parametrize(
    ("named", "variable", "is_new", "experiment"),
    [
        (None, None, True, "faces"),
        (None, "team", True, "team"),
        (None, "/Users/ada@lab/faces", True, "/Users/ada@lab/faces"),
        ("mine", "team", True, "mine"),
        (None, "team", False, "faces"),
    ],
)
def test_the_experiment(
    named: str | None,
    variable: str | None,
    is_new: bool,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable is not None:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", variable)
    assert find_experiment(named, "faces", is_new) == experiment


@pytest.mark.parametrize("variable", ["=1+1", "+a", "-a", "@a", "a\x1b[31m", " ", "x" * 501])
def test_a_variable_with_an_invalid_name(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", variable)
    with pytest.raises(RunError, match="MLFLOW_EXPERIMENT_NAME cannot be"):
        find_experiment(None, "faces")


@pytest.mark.parametrize("folder", FOLDERS)
def test_any_folder_can_hold_the_store(
    folder: str, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / folder
    (output / "faces_v1").mkdir(parents=True)
    (output / "faces_v1" / "config.json").write_text("{}")
    shutil.copy(empty_store, output / "mlflow.db")
    uri = find_store(None, output).uri
    assert database_of(uri) == output / "mlflow.db"
    sink = MLflowSink(uri, "faces", output / "faces_v1")
    sink.open(0)
    sink.write([Point("val/l1", 0.5, 1, 1)])
    sink.close("FINISHED", "")
    client = MlflowClient(uri)
    run = client.get_run(sink.run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"val/l1": 0.5})
    file = client.download_artifacts(run.info.run_id, "config.json", str(tmp_path))
    assert Path(file).read_text() == "{}"
    # Nothing beside, such as a directory called "my%2520runs" or a file called "what".
    assert {path.name for path in tmp_path.iterdir()} == {folder, "config.json"}
    assert {path.name for path in output.iterdir()} == {"faces_v1", "mlflow.db", "mlartifacts"}


def tables(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def test_it_is_created_once_by_concurrent_processes(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, made, errors = tmp_path / "50%?#" / "mlflow.db", [], []
    make = mlflow_store._make

    def counted(part: Path) -> None:
        # Whoever looks now must see nothing rather than a part.
        make(part)
        assert not path.exists()
        made.append(part)

    monkeypatch.setattr(mlflow_store, "_make", counted)

    def ask() -> None:
        try:
            prepare_database(path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(made) == 1
    assert tables(path) == tables(empty_store)
    assert [each.name for each in path.parent.iterdir()] == ["mlflow.db"]
    # And it is not made again.
    prepare_database(path)
    assert len(made) == 1
    assert [e.name for e in MlflowClient(sqlite_uri(path)).search_experiments()] == ["Default"]


@pytest.fixture
def quickly_made(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy takes the place of a migration, and nobody waits for others."""
    monkeypatch.setattr(mlflow_store, "_make", lambda path: shutil.copy(empty_store, path))
    monkeypatch.setattr(mlflow_store, "_QUIET_SECONDS", 0.3)


@pytest.mark.usefixtures("quickly_made")
def test_files_of_a_killed_process_do_not_matter(tmp_path: Path, empty_store: Path) -> None:
    path = tmp_path / "mlflow.db"
    folder = tmp_path / ".mlflow.db.making"
    folder.mkdir()
    for name in ("mlflow.db", "mlflow.db-journal", ".lock"):
        (folder / name).write_text("half a page")
    # The journal of a database that somebody removed.
    (tmp_path / "mlflow.db-journal").write_text("half a page")
    prepare_database(path)
    assert tables(path) == tables(empty_store)
    assert [each.name for each in tmp_path.iterdir()] == ["mlflow.db"]


def half_made(path: Path, empty_store: Path) -> None:
    """As MLflow leaves one that is killed while it copies a table."""
    shutil.copy(empty_store, path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("DELETE FROM experiments")
        database.execute("CREATE TABLE _alembic_tmp_model_versions (name TEXT)")
        database.execute("UPDATE alembic_version SET version_num = '84291f40a231'")
        database.commit()


@pytest.mark.usefixtures("quickly_made")
def test_a_half_made_one_makes_room(
    tmp_path: Path, empty_store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mlflow.db"
    for number in (1, 2):
        half_made(path, empty_store)
        before = path.read_bytes()
        check_reachable(sqlite_uri(path))
        assert tables(path) == tables(empty_store)
        assert (tmp_path / f"mlflow.db.half-made-{number}").read_bytes() == before
    assert f"renamed to 'mlflow.db.half-made-{number}'" in caplog.messages[-1]
    # A file that is empty is as good as none.
    path.write_bytes(b"")
    check_reachable(sqlite_uri(path))


@pytest.mark.usefixtures("quickly_made")
def test_a_database_that_another_process_creates_is_left_alone(
    tmp_path: Path, empty_store: Path
) -> None:
    path = tmp_path / "mlflow.db"
    half_made(path, empty_store)
    asking = threading.Thread(target=prepare_database, args=[path], daemon=True)
    asking.start()
    with closing(sqlite3.connect(path)) as database:
        for number in range(20):
            database.execute(f"CREATE TABLE t{number} (x TEXT)")
            database.commit()
            asking.join(0.1)
            assert asking.is_alive()
    asking.join()
    assert (tmp_path / "mlflow.db.half-made-1").exists()


def test_a_half_made_one_that_holds_runs_is_kept(tmp_path: Path, empty_store: Path) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(empty_store, path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE experiments RENAME TO _alembic_tmp_experiments")
        database.commit()
    before = path.read_bytes()
    with pytest.raises(RunError, match="its upgrade was interrupted; restore a backup, or move"):
        prepare_database(path)
    assert path.read_bytes() == before


def test_a_database_of_something_else_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE studies (x TEXT)")
        database.commit()
    before = path.read_bytes()
    prepare_database(path)
    assert path.read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="paths of another system")
@pytest.mark.parametrize("kind", ["text", "directory", "device", "below a file", "no such place"])
def test_what_cannot_be_opened_says_so_at_once(kind: str, tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("no database " * 100)
    path = {
        "text": text,
        "directory": tmp_path,
        "device": Path("/dev/null"),
        "below a file": text / "mlflow.db",
        "no such place": Path("/proc/none/mlflow.db"),
    }[kind]
    with pytest.raises(RunError, match=r"MLflow's database (cannot be )?'.*(it is no|cannot be)"):
        check_reachable(sqlite_uri(path))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["text.db"]
    assert text.read_text() == "no database " * 100


def test_the_home_in_the_address_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STORES", str(tmp_path / "stores"))
    assert find_store("sqlite:///~/x.db", tmp_path).uri == f"sqlite:///{tmp_path}/x.db"
    assert find_store("sqlite:///$STORES/x.db", tmp_path).uri == f"sqlite:///{tmp_path}/stores/x.db"
