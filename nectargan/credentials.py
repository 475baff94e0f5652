"""User names and passwords stay out of everything that is written or shown."""

from __future__ import annotations

import re

HIDDEN = "***"

# A password may hold slashes, as SQLAlchemy takes it; a user without a password may not.
_USER = re.compile(r"(?<=://)(?:[^/\s:@]*:[^\s@]*|[^/\s]*)@")
# Databases and their drivers take them as parameters as well.
_PARAMETER = re.compile(
    r"([?&;](?:user|username|uid|\w*(?:password|passwd|pwd|token|secret|apikey|api_key))=)[^&;\s'\"]+",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """``text`` with the user and the password of every URI in it replaced by ``***``."""
    return _PARAMETER.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))
