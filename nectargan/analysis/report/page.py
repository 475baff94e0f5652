"""`write_report`: one HTML file that shows runs."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

from nectargan.analysis.compare import best_in, comparison_of, labels_of
from nectargan.analysis.report.charts import Arrays, curves_of_page, groups_in_order, most_points
from nectargan.analysis.report.pictures import Examples, PictureStore
from nectargan.analysis.report.tested import tests_of_page
from nectargan.analysis.short_names import distinct_parts
from nectargan.analysis.sources import LedgerSource, RunLike, Source, open_sources, readable
from nectargan.errors import RunError
from nectargan.files import is_stream, replacing
from nectargan.wording import counted

if TYPE_CHECKING:
    import pandas as pd

_EXAMPLE_BYTES, _TEST_BYTES = 12_000_000, 6_000_000
_SCRIPTS = ("page.js", "charts.js", "pictures.js", "tests.js")


class Report(NamedTuple):
    """What was written.

    Attributes:
        runs: How many runs are on the page.
        pictures: How many pictures.
        size: Its size in bytes.
    """

    runs: int
    pictures: int
    size: int


def write_report(
    runs: RunLike | Sequence[RunLike],
    output: Path,
    mlflow_uri: str | None = None,
    sort: str | None = None,
    lineage: bool = True,
) -> Report:
    """Writes one HTML file that shows runs. It needs no other file and no network.

    Args:
        runs: As for `load_losses`.
        output: The file, .html.
        mlflow_uri: As for `load_losses`.
        sort: Order of the runs, as for `compare_runs`.
        lineage: Whether the curves of a fork begin with those of its parent.

    Raises:
        RunError: no run can be read, there is no such column, or the file cannot be written.
        ConfigError: no config can be read.
    """
    _check_output(output)
    page, report = make_page(open_sources(runs, mlflow_uri, lineage), sort)
    try:
        with replacing(output, or_stream=True) as part:
            part.write_bytes(page)
    except OSError as error:
        raise RunError(f"'{output}' cannot be written: {error.strerror}.") from None
    return report


def _check_output(output: Path) -> None:
    """Raises `RunError` for what can never be written, before minutes are spent on reading."""
    if is_stream(output):
        return
    if output.suffix.lower() not in (".html", ".htm"):
        raise RunError(f"'{output}' is no page; its name must end in .html.")
    if output.is_dir():
        raise RunError(f"'{output}' cannot be written: it is a directory.")
    if not output.absolute().parent.is_dir():
        raise RunError(f"'{output}' cannot be written: its directory does not exist.")


def make_page(sources: Sequence[Source], sort: str | None = None) -> tuple[bytes, Report]:
    """The page of runs, UTF-8, and what is on it; ``sort`` as for `compare_runs`.

    Raises:
        RunError: no run can be read, or there is no such column.
        ConfigError: no config can be read.
    """
    # A run that was named twice is shown once.
    once: dict[str, Source] = {}
    for source in sources:
        once.setdefault(_identity(source), source)
    by_name = {source.name: source for source in once.values()}
    arrays, most = Arrays(), most_points(len(by_name))
    frame = comparison_of(list(by_name.values()), sort)
    read = readable(
        [by_name[str(name)] for name in frame.index],
        lambda source: curves_of_page(source, most, arrays),
    )
    sources = [source for source, _ in read]
    frame = frame.loc[[source.name for source in sources]]
    curves = [{"run": run, **curve} for run, (_, each) in enumerate(read) for curve in each]
    store = PictureStore()
    examples = Examples(sources, store, _EXAMPLE_BYTES)
    pattern, labels = distinct_parts([source.name for source in sources])
    data = {
        "runs": labels,
        "table": _table(frame, sources),
        "groups": groups_in_order(curves),
        "curves": curves,
        "pairs": examples.pairs,
        "generated": examples.generated,
        "tests": tests_of_page(sources, arrays, store, _TEST_BYTES),
        "arrays": arrays.texts,
    }
    shown, there = examples.epochs
    facts = [counted(len(sources), "run"), time.strftime("%d %B %Y, %H:%M")]
    if store.texts:
        facts.append(f"{counted(len(store.texts), 'picture')} of at most {examples.side} pixels")
    if shown < there:
        facts.append(f"pictures of {shown} of {there} epochs")
    page = _filled(pattern or labels[0], facts, data, store.texts)
    return page, Report(len(sources), len(store.texts), len(page))


def _identity(source: Source) -> str:
    if isinstance(source, LedgerSource):
        return str(source.directory.resolve())
    return source.place


def _filled(title: str, facts: Sequence[str], data: Any, pictures: Sequence[str]) -> bytes:
    from plotly.offline import get_plotlyjs

    here = resources.files("nectargan.analysis.report")
    parts = {
        "style": (here / "page.css").read_text(encoding="utf-8"),
        "script": "\n".join((here / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        "data": _json(data),
        "pictures": _json(pictures),
        "plotly": get_plotlyjs(),
    }
    megabytes = sum(map(len, parts.values())) / 1e6
    told = " · ".join([*facts, f"{megabytes:.1f} MB"])
    template = Template((here / "page.html").read_text(encoding="utf-8"))
    page = template.substitute(parts, title=html.escape(title), facts=html.escape(told))
    return page.encode("utf-8", "replace")


def _json(value: Any) -> str:
    # Nothing in a name may end the element that it is in.
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _table(frame: pd.DataFrame, sources: Sequence[Source]) -> dict[str, Any]:
    """The comparison of the runs: ``columns``, ``rows`` of texts, and which cells are ``best``."""
    import pandas as pd

    columns = [str(key) for key in frame.columns if not key.endswith("_epoch")]
    labels = dict(zip(map(str, frame.columns), labels_of(frame), strict=True))

    def shown(key: str, row: int) -> str:
        value = frame[key].iloc[row]
        if pd.isna(value):
            return ""
        text = f"{value:.4g}" if pd.api.types.is_float(value) else str(value)
        if key == "status" and (reason := sources[row].status()[1]):
            return f"{text}: {reason}"
        epoch = frame[f"{key}_epoch"].iloc[row] if f"{key}_epoch" in frame.columns else None
        return text if epoch is None or pd.isna(epoch) else f"{text} (epoch {epoch})"

    return {
        "columns": [labels[key] for key in columns],
        "rows": [[shown(key, row) for key in columns] for row in range(len(frame))],
        "best": [best_in(frame, key).tolist() for key in columns],
    }
