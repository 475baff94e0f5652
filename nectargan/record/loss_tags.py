"""``losses.json``: the tags of each recorded loss, which tables can be filtered by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nectargan.errors import RunError
from nectargan.files import read_regular_text, replacing
from nectargan.wording import one_line


def write_loss_tags(path: Path, tags: Mapping[str, Sequence[str]]) -> None:
    """Adds the tags of losses to the file; the tags of other losses stay.

    Args:
        path: ``losses.json`` of a run.
        tags: Tags by name of the loss.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        known = read_loss_tags(path) or {}
    except RunError:
        known = {}  # a damaged file is replaced
    known |= {name: list(own) for name, own in tags.items()}
    try:
        with replacing(path) as part:
            losses = {name: {"tags": own} for name, own in known.items()}
            part.write_text(json.dumps(losses, indent=4), encoding="utf-8")
    except OSError as error:
        raise RunError(f"'{path}' cannot be written: {error.strerror}.") from error


def read_loss_tags(path: Path) -> dict[str, list[str]] | None:
    """The tags by name of the loss; ``None`` if there is no such file.

    Raises:
        RunError: the file is damaged or cannot be read.
    """
    try:
        losses = json.loads(read_regular_text(path))
        return {str(name): [str(tag) for tag in loss["tags"]] for name, loss in losses.items()}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"'{path}' cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"'{path}' is damaged: {one_line(error)}.") from None
