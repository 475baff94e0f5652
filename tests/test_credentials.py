from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from nectargan.cli.train import train
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.credentials import public_address, public_argument, without_credentials
from nectargan.errors import ConfigError, RunError
from nectargan.loggers.mlflow.client import check_reachable
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_last
from nectargan.runs.resume import resumption_of
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.loggers.gate import gate_to
from tests.loggers.mlflow.test_sink import Server, only_run, server
from tests.processes import PATIENCE

__all__ = ["server"]

WORD = st.text("abcXYZ019._-", min_size=1)
PASSWORD = st.text("abcXYZ019._-~!$:@ %&=;'\\\"", min_size=1)
SECRET = "Sesame77"  # noqa: S105 - of nobody

# Forms of addresses, and all that may be shown of them.
FORMS = [
    (f"http://user:pa@{SECRET}@host", "http://host"),
    (f"http://{SECRET}@host:5000/x", "http://host:5000/x"),
    (f"http://user:{SECRET}@host:5000/", "http://host:5000/"),
    (f"http://user:pa%40{SECRET}@[::1]:5000", "http://[::1]:5000"),
    (f"http://dom\\user:{SECRET}@host", "http://host"),
    (f"http://user:{SECRET}\n@host", "http://host"),
    (f"https://host/x?sig={SECRET}", "https://host/x"),
    (f"https://host/x?key={SECRET}&a=1", "https://host/x"),
    (f"https://host?auth={SECRET}", "https://host"),
    (f"https://host/x#{SECRET}", "https://host/x"),
    (f"https://host/x;{SECRET}", "https://host/x"),
    (f"postgresql://user:my {SECRET}@host:5432/db", "postgresql://host:5432/db"),
    (f"postgresql+psycopg2://user:{SECRET}@/db", "postgresql+psycopg2:///db"),
    (f"postgresql://host/db?password='two {SECRET}'", "postgresql://host/db"),
    (f'mysql://host/db?password="{SECRET}"', "mysql://host/db"),
    (f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{SECRET}", "mssql+pyodbc:///"),
    (f"mssql://host/db;PWD={SECRET};a=1", "mssql://host/db"),
    (f"sqlite:///x.db?passphrase={SECRET}", "sqlite:///x.db"),
    (f"databricks://host?access_token={SECRET}", "databricks://host"),
    # Where these have their host is not certain.
    (f"mssql+pyodbc://user:{SECRET}@host\\instance/db", "***"),
    (f"//user:{SECRET}@host", "***"),
    (f"user:{SECRET}@host", "***"),
    (f"http:/user:{SECRET}@host", "***"),
    (f"http://user:pa/{SECRET}@host", "***"),
    (f"http://user:12/{SECRET}@host", "***"),
    (f"http://user:12?{SECRET}@host", "***"),
    (f"http://user:12#{SECRET}@host", "***"),
    (f"postgresql:///user:{SECRET}@host/db", "***"),
    (f"https://host/db&password={SECRET}", "***"),
    (f"https://host/db%3Fpassword%3D{SECRET}", "***"),
    (f"mysql://user:{SECRET}@one:1,two:2/db", "***"),
    (f"databricks://profile:{SECRET}", "***"),
    (SECRET, "***"),
]


@given(user=WORD, password=PASSWORD, host=WORD)
def test_user_and_password_are_not_shown(user: str, password: str, host: str) -> None:
    assert public_address(f"postgresql://{user}:{password}@{host}/db") == f"postgresql://{host}/db"


@given(user=WORD, password=WORD, host=WORD, before=st.text(), after=st.text())
def test_secrets_are_removed_from_any_text(
    user: str, password: str, host: str, before: str, after: str
) -> None:
    secret = f"{user}:{password}@{host}/db"
    text = without_credentials(f"{before} postgresql://{secret} {after}")
    assert secret not in text
    assert f"postgresql://{host}/db" in text
    assert without_credentials(text) == text


@pytest.mark.parametrize(("address", "shown"), FORMS)
def test_only_scheme_host_port_and_path_are_shown(address: str, shown: str) -> None:
    assert public_address(address) == shown
    assert public_address(shown) == shown
    # Errors of others quote the address, or a part of it.
    for quoted in (address, repr(address), f"({address}).", f"invalid literal '{SECRET}@host'"):
        assert SECRET not in without_credentials(f"It failed: {quoted} was refused")
    for argument in (address, f"--mlflow-uri={address}", f'a={{"tracking_uri": "{address}"}}'):
        assert SECRET not in public_argument(argument)


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000",
        "sqlite:////tmp/a@b c#d/mlflow.db",
        "sqlite+pysqlite:////tmp/50%25%3F/mlflow.db",
        "databricks",
        "***",
    ],
)
def test_other_addresses_stay(uri: str) -> None:
    assert public_address(uri) == uri
    assert without_credentials(f"In '{uri}', at last.") == f"In '{uri}', at last."


def test_a_required_server_is_named_without_them(tiny: Callable[..., Config]) -> None:
    uri = "http://ada:sesame@127.0.0.1:9"
    options = {"enable": True, "tracking_uri": uri, "required": True}
    with pytest.raises(RunError, match=r"cannot be reached at 'http://127\.0\.0\.1:9'") as raised:
        Pix2pixTrainer(tiny(logging__mlflow=options)).train()
    assert "sesame" not in str(raised.value)


def test_the_store_is_named_in_full_where_it_has_no_secret(tmp_path: Path) -> None:
    assert without_credentials(f"sqlite:///{tmp_path}/x.db") == f"sqlite:///{tmp_path}/x.db"


@pytest.mark.parametrize("address", [" ", "a", "?", "\t\n"])
def test_text_without_addresses_is_unchanged(address: str) -> None:
    assert public_address(address) == "***"
    assert without_credentials("A plain text? Of words.\t\n") == "A plain text? Of words.\t\n"


@pytest.mark.parametrize("address", [f"//user:{SECRET}@host", f"{'x' * 50}:{SECRET}@host"])
def test_an_address_that_is_refused_is_not_told(address: str) -> None:
    with pytest.raises(
        ConfigError, match=r'tracking_uri cannot be "\*\*\*": it must begin'
    ) as raised:
        ConfigManager(None, [("logging.mlflow.tracking_uri", address)])
    assert SECRET[:4] not in str(raised.value)


def places_of(secret: str, *folders: Path) -> list[str]:
    """The files below some folders, databases and archives among them, that hold a text."""
    found = []
    for path in (each for folder in folders for each in folder.rglob("*") if each.is_file()):
        content = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content += b"".join(archive.read(name) for name in archive.namelist())
        if secret.encode() in content:
            found.append(str(path))
    return found


@pytest.mark.parametrize(
    "uri",
    [
        f"http://user:pa@{SECRET}@127.0.0.1:9",
        f"http://user:pa/{SECRET}@127.0.0.1:9",
        f"http://127.0.0.1:9/?auth={SECRET}",
        f"postgresql://user:my {SECRET}@127.0.0.1:9/db",
        f"mysql://127.0.0.1:9/db?password='two {SECRET}'",
        f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{SECRET}",
        f"mssql+pyodbc://user:{SECRET}@127.0.0.1\\instance/db",
    ],
)
def test_the_password_of_an_unreachable_server_is_nowhere(
    uri: str,
    tiny: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "tiny.json"
    config.write_text(tiny().model_dump_json())
    command = ["-c", str(config), "--epochs", "1", "--set", "logging.mlflow.enable=true"]
    command += ["--set", "logging.drain_seconds=1", "--mlflow-uri", uri]
    monkeypatch.setattr("sys.argv", ["nectargan-train", *command])
    done = CliRunner().invoke(train, command)
    assert done.exit_code == 0, done.output
    assert public_address(uri) in done.output
    assert SECRET not in done.output
    assert places_of(SECRET, tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
def test_the_password_of_a_server_is_nowhere(
    tiny: Callable[..., Config], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "tiny.json"
    config.write_text(tiny(logging__mlflow__every_n_steps=1).model_dump_json())
    with gate_to(server.uri, f"ada:pa@{SECRET}") as gate:
        host = gate.uri.removeprefix("http://")
        uri = f"http://ada:pa@{SECRET}@{host}"
        command = [sys.executable, "-m", "nectargan.cli.train", "-c", str(config), "--epochs", "1"]
        command += ["--set", "logging.mlflow.enable=true", "--set", "logging.drain_seconds=300"]
        done = subprocess.run(
            [*command, "--mlflow-required", "--mlflow-uri", uri],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        assert f"MLflow: experiment 'tiny' in {gate.uri} (" in done.stdout
        (run,) = (tmp_path / "runs").glob("tiny_v*")
        logged = only_run(server.uri, "tiny")
        assert logged.info.status == "FINISHED"
        assert f"--mlflow-uri {gate.uri}" in logged.data.tags["command"]
        # The record of the run, and of the server with its database and the files it was sent.
        assert places_of(SECRET, tmp_path) == []
        assert gate.uri in (run / "config.json").read_text()
        assert SECRET not in done.stdout + done.stderr

        # Who goes on with it says the password again, or has it in the environment.
        def resumed() -> Pix2pixTrainer:
            checkpoint = load_last(RunDirectory(run))
            wanted = ConfigManager(checkpoint["config"])
            wanted.set_epochs(2)
            resumption = resumption_of(RunDirectory(run), checkpoint, wanted.data)
            return Pix2pixTrainer(resumption.config, resumption)

        with pytest.raises(RunError, match=f"cannot be reached at '{gate.uri}': .*401") as raised:
            resumed().train()
        assert "--mlflow-uri" in str(raised.value)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        trainer = resumed()
        assert trainer.store == (uri, "MLFLOW_TRACKING_URI")
        trainer.train()
        assert only_run(server.uri, "tiny").info.status == "FINISHED"
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", f"pa@{SECRET}")
        check_reachable(trainer.config.model_dump()["logging"]["mlflow"]["tracking_uri"])
        assert places_of(SECRET, tmp_path) == []
