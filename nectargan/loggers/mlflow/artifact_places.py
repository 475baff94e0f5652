"""Updates the paths of artifacts in an MLflow database that was moved together with them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

ARTIFACTS = "mlartifacts"
"""Name of the folder beside an SQLite file that contains the artifacts of its experiments."""

# The columns with full addresses. MLflow has no function that changes them.
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def follow_move(database: Path) -> None:
    """Updates the paths of artifacts if the database and its folder ``mlartifacts`` were moved.

    Otherwise MLflow would read and write artifacts at the old place. Only experiments are changed
    whose folder is below ``mlartifacts`` in the database and exists beside it. A database that is
    locked or read-only is not changed.
    """
    home = database.resolve().parent / ARTIFACTS
    if not home.is_dir():
        return
    try:
        with closing(sqlite3.connect(database, timeout=5.0)) as connection, connection:
            for old, new in _moved(connection, home):
                for table, column in _COLUMNS:
                    connection.execute(
                        # The names are constants of this module; values are parameters.
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, old, len(old) + 1, old + "/"),
                    )
    except sqlite3.OperationalError:
        # Another version of MLflow may have other tables, or the file is read-only.
        return


def _moved(connection: sqlite3.Connection, home: Path) -> list[tuple[str, str]]:
    """Old and new addresses of the folders of experiments that were moved."""
    found = []
    for (old,) in connection.execute("SELECT artifact_location FROM experiments").fetchall():
        if not str(old or "").startswith("file:"):
            continue
        before = Path(url2pathname(unquote(urlparse(old).path)))
        after = home / before.name
        if before.parent.name == ARTIFACTS and before != after and after.is_dir():
            found.append((str(old), after.as_uri()))
    return found
