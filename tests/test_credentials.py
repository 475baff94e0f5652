from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.config.schema import Config
from nectargan.credentials import without_credentials
from nectargan.errors import RunError
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from nectargan.trainers.sinks import synchronize

WORD = st.text("abcXYZ019._-~!$", min_size=1)


@given(user=WORD, password=WORD, host=WORD, before=st.text(), after=st.text())
def test_they_are_gone_from_any_text(
    user: str, password: str, host: str, before: str, after: str
) -> None:
    secret = f"{user}:{password}@{host}/db"
    text = without_credentials(f"{before} postgresql://{secret} {after}")
    assert secret not in text
    assert f"postgresql://***@{host}/db" in text
    assert without_credentials(text) == text


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://ada:ses/ame@h/db", "postgresql://***@h/db"),
        ("http://token@h:5000/x", "http://***@h:5000/x"),
        ("mysql://h/db?user=ada&password=ses-ame&a=1", "mysql://h/db?user=***&password=***&a=1"),
        ("mssql://h/db?a=1;PWD=ses;b=2", "mssql://h/db?a=1;PWD=***;b=2"),
        ("databricks://h?access_token=sesame", "databricks://h?access_token=***"),
    ],
)
def test_wherever_a_uri_has_them(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown
    assert without_credentials(shown) == shown


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:5000", "sqlite:////tmp/a@b/mlflow.db", "http://h/a@b?x=1"]
)
def test_other_uris_stay(uri: str) -> None:
    assert without_credentials(uri) == uri


@pytest.mark.parametrize("uri", ["http://ada:sesame@127.0.0.1:9", "http://127.0.0.1:9/?pwd=sesame"])
def test_they_reach_no_file_of_a_run(
    tiny: Callable[..., Config], caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    options = {"enable": True, "tracking_uri": uri}
    trainer = Pix2pixTrainer(tiny(logging__mlflow=options, logging__drain_seconds=0.1))
    run = trainer.train()
    assert trainer.tracking_uri == uri
    assert "sesame" not in caplog.text
    for path in (p for p in run.rglob("*") if p.is_file()):
        assert b"sesame" not in path.read_bytes(), path
    with pytest.raises(RunError, match="was kept without its user and password"):
        synchronize(run)


def test_a_required_server_is_named_without_them(tiny: Callable[..., Config]) -> None:
    uri = "http://ada:sesame@127.0.0.1:9"
    options = {"enable": True, "tracking_uri": uri, "required": True}
    with pytest.raises(RunError, match=r"cannot be reached at 'http://\*\*\*@127") as raised:
        Pix2pixTrainer(tiny(logging__mlflow=options)).train()
    assert "sesame" not in str(raised.value)


def test_the_store_is_named_in_full_where_it_has_no_secret(tmp_path: Path) -> None:
    assert without_credentials(f"sqlite:///{tmp_path}/x.db") == f"sqlite:///{tmp_path}/x.db"
