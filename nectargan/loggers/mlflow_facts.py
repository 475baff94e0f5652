"""What an MLflow run is told besides its points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Draw = Callable[[Path], object]


class DatasetFacts(NamedTuple):
    """A data set that a run reads.

    Attributes:
        name: Its name, such as that of its folder.
        context: "training" or "validation".
        path: Where it lies.
        digest: Of the names and sizes of its files, at most 36 characters.
        profile: Counts and sizes, by name.
    """

    name: str
    context: str
    path: str
    digest: str
    profile: Mapping[str, Any]


class ExportedModel(NamedTuple):
    """A network as others are to use it.

    Attributes:
        module: A `torch.nn.Module` in eval mode, from one image batch to another.
        example: An input, float32 ``(N, C, H, W)`` with N above 1; N stays free, the rest does not.
        step: The step that its weights are from.
        checkpoint: The name of their file.
    """

    module: Any
    example: Any
    step: int
    checkpoint: str


@dataclass(frozen=True)
class RunFacts:
    """The story of a run.

    Attributes:
        params: What a person compares, by short name.
        tags: Where, by whom and with which versions it was run.
        note: A description in Markdown, shown above the run.
        datasets: What it reads.
        first_pictures: Pictures to draw at the start, by file name.
        last_pictures: Pictures to draw at the end.
        export_model: Makes the model to log at the end; returns ``None`` if there is none, and may
            raise anything.
    """

    params: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    datasets: Sequence[DatasetFacts] = ()
    first_pictures: Mapping[str, Draw] = field(default_factory=dict)
    last_pictures: Mapping[str, Draw] = field(default_factory=dict)
    export_model: Callable[[], ExportedModel | None] | None = None
