"""`write_report`: one page with the findings of `nectargan data check` and their pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import groupby, islice
from pathlib import Path
from string import Template

from nectargan.dataset.inspection import decode
from nectargan.dataset.pairs import Pair
from nectargan.dataset.suspicions import Suspicion
from nectargan.errors import DataError
from nectargan.files import replacing
from nectargan.output import printable
from nectargan.sources import Source
from nectargan.wording import counted

MOST_PICTURED = 25  # findings of a kind; the page holds all pictures
_SIDES = (320, 160)  # largest width and height of a picture in pixels


def write_report(
    found: Sequence[Suspicion], counts: Mapping[str, int], title: str, facts: str, output: Path
) -> None:
    """Writes an HTML page with findings: their pictures, figures and advice, worst first.

    The page needs no other file and no network. Of each kind, `MOST_PICTURED` findings are shown.

    Args:
        found: Findings of `suspicions`.
        counts: Number of all findings of each kind.
        title: Name of the data set.
        facts: A sentence about it.
        output: The file.

    Raises:
        DataError: If the page cannot be written.
    """
    parts = []
    for kind, group in groupby(found, key=lambda each: each.kind):
        parts.append(f"<h2>{_text(kind)}</h2>")
        parts += [_finding(each) for each in islice(group, MOST_PICTURED)]
        if counts[kind] > MOST_PICTURED:
            parts.append(f"<p>and {counts[kind] - MOST_PICTURED} more; --json lists all.</p>")
    template = resources.files("nectargan").joinpath("data_report.html")
    page = Template(template.read_text(encoding="utf-8")).substitute(
        title=_text(title),
        facts=_text(f"{facts} {counted(sum(counts.values()), 'finding')}."),
        kinds="\n".join(f"<tr><td>{_text(k)}</td><td>{n}</td></tr>" for k, n in counts.items()),
        findings="\n".join(parts),
    )
    try:
        with replacing(output) as part:
            part.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DataError(f"'{output}' cannot be written: {error.strerror}.") from None


def require_place(output: Path) -> None:
    """Raises `DataError` if a page cannot be written there, before the work for it begins."""
    if output.is_dir():
        raise DataError(f"'{output}' cannot be written: Is a directory.")
    if not output.parent.is_dir():
        raise DataError(f"'{output}' cannot be written: No such file or directory.")


def _text(text: str) -> str:
    return html.escape(printable(text))


def _finding(each: Suspicion) -> str:
    pictures = "".join(f"<div>{_pictures(pair)}</div>" for pair in each.pairs)
    files = "<br>".join(map(_text, each.files))
    figure = _text(each.figure[:1].upper() + each.figure[1:])
    advice = _text(each.advice[:1].upper() + each.advice[1:])
    return f"<section>{pictures}<div><p>{files}</p><p>{figure}.</p><p>{advice}.</p></div></section>"


def _pictures(pair: Pair) -> str:
    sources = [each for each in (pair.a, pair.b) if each is not None]
    return " ".join(_picture(source) for source in sources)


def _picture(source: Source) -> str:
    try:
        image = decode(source).image.convert("RGB")
    except DataError as error:  # it has changed since the check
        return _text(str(error))
    image.thumbnail(_SIDES)
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img alt="{_text(source.name)}" src="data:image/png;base64,{data}">'
