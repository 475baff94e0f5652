"""Links to the pages of a local MLflow server that compare runs."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nectargan.metrics import USUAL_SERIES, is_lower_better

_MOST_EXPERIMENTS = 5
_MOST_RUNS = 100
_API = "/ajax-api/2.0/mlflow/"
_SECONDS = 30
# MLflow stores a shared view as a tag of the experiment.
_VIEW = "mlflow.sharedViewState."
# Charts of losses and weights, without those of the discriminator, which would come first.
_LOSSES = "^(loss|weight)/(?!D_)"
_USUAL_BEST = USUAL_SERIES.replace("val/", "best/")


class Page(NamedTuple):
    """The title and address of a page."""

    title: str
    url: str


def comparison_pages(host: str, port: int) -> Iterator[tuple[str, list[Page]]]:
    """The names of the experiments with runs, newest first, and the pages that compare their runs.

    Each experiment gets two views: charts of the losses and their weights, and a table of the runs
    with the parameters that differ and the best metrics. Both show the best run first, and will
    also show later runs.

    Args:
        host: Address of the server.
        port: Port of the server.

    Raises:
        OSError: the server does not answer.
        ValueError: the answer is not one of MLflow.
    """
    query = {"max_results": _MOST_EXPERIMENTS, "order_by": ["last_update_time DESC"]}
    for experiment in _ask(host, port, "experiments/search", query).get("experiments", []):
        number = experiment["experiment_id"]
        runs = _ask(
            host, port, "runs/search", {"experiment_ids": [number], "max_results": _MOST_RUNS}
        ).get("runs", [])
        if not runs:
            continue
        pages = []
        for title, name, mode, state in _views([run["data"] for run in runs]):
            tag = {"key": f"{_VIEW}{name}", "value": json.dumps(state)}
            if tag not in experiment.get("tags", []):
                request = {"experiment_id": number, **tag}
                _ask(host, port, "experiments/set-experiment-tag", request)
            view = f"compareRunsMode={mode}&viewStateShareKey={name}"
            pages.append(Page(title, f"http://{host}:{port}/#/experiments/{number}/runs?{view}"))
        yield experiment["name"], pages


def _views(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Title, name, mode and state of each view, in the form that MLflow's page stores."""
    metrics = {each["key"]: None for run in runs for each in run.get("metrics", [])}
    bests = [key for key in metrics if key.startswith("best/") and not key.endswith("_epoch")]
    state: dict[str, Any] = {}
    if bests:
        by = _USUAL_BEST if _USUAL_BEST in bests else bests[0]
        state |= {"orderByKey": f"metrics.`{by}`", "orderByAsc": is_lower_better(by)}
    yield (
        "losses of G and their weights",
        "nectargan_losses",
        "CHART",
        {**state, "chartsSearchFilter": _LOSSES},
    )
    columns = [f"metrics.`{key}`" for key in bests]
    columns += [f"params.`{key}`" for key in _differing(runs)]
    yield "table of runs", "nectargan_runs", "TABLE", {**state, "selectedColumns": columns}


def _differing(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The parameters in which the runs differ; if there are none, those of the losses."""
    params = [{each["key"]: each["value"] for each in run.get("params", [])} for run in runs]
    keys = dict.fromkeys(key for each in params for key in each)
    found = [key for key in keys if len({each.get(key) for each in params}) > 1]
    return found or [key for key in keys if key.startswith("loss.")]


def _ask(host: str, port: int, method: str, request: Mapping[str, Any]) -> dict[str, Any]:
    # urllib would use a proxy.
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", _API + method, json.dumps(request), headers)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()
