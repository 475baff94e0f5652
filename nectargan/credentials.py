"""Removes user names, passwords and parameters from addresses before they are written or shown.

The functions do not search for secrets. They parse an address and keep only its scheme, host, port
and path. An address that cannot be parsed is replaced by ``***``.
"""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from urllib.parse import unquote_plus

HIDDEN = "***"

_SCHEME = r"[A-Za-z][\w+.\-]*"
# Stricter than the standard: if a "/" or "?" in a password is not quoted, no part of the password
# may be read as a host or a path.
_NETWORK = re.compile(
    rf"(?P<scheme>{_SCHEME}://)"
    r"(?:(?P<user>[^/?#]*)@)?"
    r"(?P<host>(?:[\w.\-]+|\[[\da-fA-F:.]+\])?(?::\d{1,5})?)"
    r"(?P<path>(?:/[\w.\-~+/]*)?)"
    r"(?:[?#;](?P<parameters>[^@]*))?",
    re.DOTALL,
)
# A file has no user and no password.
_FILE = re.compile(r"(?P<scheme>(?:sqlite(?:\+\w+)?|file)://)(?P<host>)(?P<path>/[^?]*)(?:\?.*)?")
# An address in a text, and the punctuation that follows it.
_IN_TEXT = re.compile(rf"({_SCHEME}://\S*?)([^\w/\s]*(?!\S))")
_TRACKING_URI = re.compile(
    r"(https?|postgresql(\+\w+)?|mysql(\+\w+)?|mssql(\+\w+)?)://.|sqlite(\+\w+)?:///.|"
    r"databricks(://.|$)"
)
TRACKING_URIS = (
    "it must begin with http://, https://, sqlite:///, postgresql://, mysql://, mssql:// or "
    "databricks (MLflow no longer supports folders)"
)
# Shorter words and common words are not hidden, because they also occur in ordinary text.
_SHORTEST_WORD = 4
_COMMON = {
    *("http", "https", "sqlite", "pysqlite", "postgresql", "mysql", "mssql", "databricks"),
    *("user", "username", "password", "host", "database", "mlflow"),
}

# The addresses that this process was given, with their public forms, and the words that only the
# hidden parts contain.
_known: dict[str, str] = {}
_secret_words: set[str] = set()


def is_tracking_uri(address: str) -> bool:
    """Whether an address has the form of an MLflow tracking URI; no connection is made."""
    scheme = address.partition(":")[0]
    return bool(_TRACKING_URI.match(address)) or any(
        plugin.name == scheme for plugin in entry_points(group="mlflow.tracking_store")
    )


def public_address(address: str) -> str:
    """The scheme, host, port and path of an address; ``***`` if it cannot be parsed.

    The hidden parts are remembered, so that `without_credentials` removes them from texts.
    """
    shown = _public_address(address)
    if shown != address:
        if len(address.strip()) >= _SHORTEST_WORD:
            _known[address] = shown
        secrets = " ".join(_secrets_of(address))
        words = re.findall(r"\w+", f"{secrets} {unquote_plus(secrets)}")
        _secret_words.update(
            word
            for word in words
            if len(word) >= _SHORTEST_WORD and word not in _COMMON and word not in shown
        )
    return shown


def without_credentials(text: str) -> str:
    """Replaces each address in a text by its public form, and each known secret word by ``***``.

    Error messages of libraries may quote parts of an address; the secret words are those that
    `public_address` has hidden before.
    """
    text = _without_known(text)
    text = _IN_TEXT.sub(lambda match: _public_address(match[1]) + match[2], text)
    return re.sub(r"\w+", lambda match: HIDDEN if match[0] in _secret_words else match[0], text)


def public_argument(argument: str) -> str:
    """A command-line argument in which an address is replaced by its public form."""
    argument = _without_known(argument)
    start = re.search(rf"{_SCHEME}://", argument)
    if start is None:
        return argument
    return argument[: start.start()] + _public_address(argument[start.start() :])


def _public_address(address: str) -> str:
    if address in ("databricks", HIDDEN):
        return address
    match = _FILE.fullmatch(address) or _NETWORK.fullmatch(address)
    return match["scheme"] + match["host"] + match["path"] if match else HIDDEN


def _secrets_of(address: str) -> list[str]:
    """The password (or the user name if there is none) and the values of the parameters."""
    match = _NETWORK.fullmatch(address)
    if match is None:
        return [address.partition("://")[2] or address]
    user, _, password = (match["user"] or "").partition(":")
    parameters = re.split("[&;]", match["parameters"] or "")
    return [password or user, *(each.partition("=")[2] or each for each in parameters)]


def _without_known(text: str) -> str:
    for address in sorted(_known, key=len, reverse=True):
        text = text.replace(address, _known[address])
    return text
