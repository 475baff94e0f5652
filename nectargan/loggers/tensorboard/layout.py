"""The messages that tell TensorBoard which charts and table columns to show."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from nectargan.metrics import USUAL

METRIC_TAGS = tuple(f"val/{name}" for name in USUAL)

Charts = dict[str, dict[str, list[Any]]]


def charts(discriminator_losses: Collection[str]) -> Charts:
    """The charts of the Custom Scalars tab, in the form that torch takes.

    TensorBoard merges the layouts of all runs and drops only equal charts. Therefore the charts do
    not name the losses of the generator: they are equal for all objectives.

    Args:
        discriminator_losses: Names of the losses of the discriminator; all others are losses of
            the generator. If empty, all losses are in one chart.
    """
    names = "|".join(re.escape(name) for name in discriminator_losses)
    # TensorBoard matches the start of a tag; it need not match the whole tag.
    others = f"^loss/(?!(?:{names})/[^/]+$).+" if names else "^loss/.+"
    losses = {
        f"generator, {kind}" if names else f"losses, {kind}": _chart(f"{others}/{kind}$")
        for kind in ("raw", "weighted")
    }
    if names:
        losses["discriminator, weighted"] = _chart(f"^loss/(?:{names})/weighted$")
        losses["D(real) against D(fake), raw"] = _chart(f"^loss/(?:{names})/raw$")
    return {
        "Losses": losses,
        "Schedules": {
            "weights": _chart("^(?:loss/.+/weight|weight/.+)$"),
            "learning rates": _chart("^lr/.+$"),
        },
        "Gradients": {
            "share of each loss": _chart("^gradient/.+/share$"),
            "cosine to the sum of the others": _chart("^gradient/.+/cosine$"),
            "cosine of each pair": _chart("^gradient/cosine/.+ vs .+$"),
            "norm": _chart("^gradient/.+/norm$"),
        },
        "Validation": {name: _chart(f"^{re.escape(name)}$") for name in METRIC_TAGS},
    }


def _chart(pattern: str) -> list[Any]:
    return ["Multiline", [pattern]]


def hparams_summaries(
    values: Mapping[str, str | float | bool], columns: Mapping[str, type]
) -> Iterator[Any]:
    """The two messages that add a run to the HParams table: the columns, and the values of the run.

    Args:
        values: The parameters of the run.
        columns: Parameters that other runs may have, with the type of their values. TensorBoard
            takes the columns of the table from a single run.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    def column(name: str, kind: type) -> Any:
        number = "FLOAT64" if issubclass(kind, (int, float)) else "STRING"
        return api_pb2.HParamInfo(
            name=name,
            type=api_pb2.DataType.Value(f"DATA_TYPE_{'BOOL' if kind is bool else number}"),
            # The table initially shows five columns; these come first.
            differs=name in values and name.startswith("loss."),
        )

    kinds = {**columns, **{name: type(value) for name, value in values.items()}}
    experiment = api_pb2.Experiment(
        hparam_infos=[column(name, kind) for name, kind in kinds.items()],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in METRIC_TAGS],
    )
    start = plugin_data_pb2.SessionStartInfo()
    for name, value in values.items():
        field = "string_value" if isinstance(value, str) else "number_value"
        setattr(start.hparams[name], "bool_value" if isinstance(value, bool) else field, value)
    data = plugin_data_pb2.HParamsPluginData
    yield _summary(metadata.EXPERIMENT_TAG, data(experiment=experiment))
    yield _summary(metadata.SESSION_START_INFO_TAG, data(session_start_info=start))


def success_summary() -> Any:
    """The message that marks a run as finished in the HParams table."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    return _summary(metadata.SESSION_END_INFO_TAG, data)


def _summary(tag: str, data: Any) -> Any:
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.plugins.hparams import metadata

    value = summary_pb2.Summary.Value(
        tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR
    )
    return summary_pb2.Summary(value=[value])
