"""User names and passwords stay out of everything that is written or shown."""

from __future__ import annotations

import re

HIDDEN = "***@"

_USER = re.compile(r"(?<=://)[^/\s]*@")


def without_credentials(text: str) -> str:
    """``text`` with the user and the password of every URI in it replaced by ``***``."""
    return _USER.sub(HIDDEN, text)
