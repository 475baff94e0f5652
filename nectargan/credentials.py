"""Addresses are written and shown without user names, passwords and parameters.

Nothing here looks for secrets. An address is taken apart, and of its parts only scheme, host, port
and path are put together again; one that cannot be taken apart for certain is written as ``***``.
"""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from urllib.parse import unquote_plus

HIDDEN = "***"

_SCHEME = r"[A-Za-z][\w+.\-]*"
# Narrower than the standard: whoever forgets to quote a "/" or a "?" in a password must not have
# one half of it taken for a host or a path.
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
# In a text, with the punctuation that comes after it.
_IN_TEXT = re.compile(rf"({_SCHEME}://\S*?)([^\w/\s]*(?!\S))")
_TRACKING_URI = re.compile(
    r"(https?|postgresql(\+\w+)?|mysql(\+\w+)?|mssql(\+\w+)?)://.|sqlite(\+\w+)?:///.|"
    r"databricks(://.|$)"
)
TRACKING_URIS = (
    "it must begin with http://, https://, sqlite:///, postgresql://, mysql://, mssql:// or "
    "databricks (MLflow takes no folders any more)"
)
# Shorter words, and these, would be found in texts by chance.
_SHORTEST_WORD = 4
_COMMON = {
    *("http", "https", "sqlite", "pysqlite", "postgresql", "mysql", "mssql", "databricks"),
    *("user", "username", "password", "host", "database", "mlflow"),
}

# What this process was given: each address with what is shown of it, and the words of the rest.
_known: dict[str, str] = {}
_secret_words: set[str] = set()


def is_tracking_uri(address: str) -> bool:
    """Whether MLflow can be asked there, as far as the address alone tells."""
    scheme = address.partition(":")[0]
    return bool(_TRACKING_URI.match(address)) or any(
        plugin.name == scheme for plugin in entry_points(group="mlflow.tracking_store")
    )


def public_address(address: str) -> str:
    """Scheme, host, port and path of an address, or ``***``.

    From then on, `without_credentials` knows the rest of it as well.
    """
    shown = _shown(address)
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
    """``text`` in which each address is as `public_address` writes it, and what else this process
    was told in an address is ``***``: errors of others quote parts of it."""
    text = _without_known(text)
    text = _IN_TEXT.sub(lambda match: _shown(match[1]) + match[2], text)
    return re.sub(r"\w+", lambda match: HIDDEN if match[0] in _secret_words else match[0], text)


def public_argument(argument: str) -> str:
    """An argument of a command line in which an address is as `public_address` writes it."""
    argument = _without_known(argument)
    start = re.search(rf"{_SCHEME}://", argument)
    if start is None:
        return argument
    return argument[: start.start()] + _shown(argument[start.start() :])


def _shown(address: str) -> str:
    if address in ("databricks", HIDDEN):
        return address
    match = _FILE.fullmatch(address) or _NETWORK.fullmatch(address)
    return match["scheme"] + match["host"] + match["path"] if match else HIDDEN


def _secrets_of(address: str) -> list[str]:
    """The password, or what stands in its place, and the values of parameters."""
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
