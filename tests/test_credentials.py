from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.config.schema import Config
from nectargan.credentials import public_address, public_argument, without_credentials
from nectargan.errors import RunError
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

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
def test_what_is_before_the_host_is_not_shown(user: str, password: str, host: str) -> None:
    assert public_address(f"postgresql://{user}:{password}@{host}/db") == f"postgresql://{host}/db"


@given(user=WORD, password=WORD, host=WORD, before=st.text(), after=st.text())
def test_they_are_gone_from_any_text(
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
