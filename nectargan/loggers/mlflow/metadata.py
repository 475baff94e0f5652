"""What an MLflow run is told besides its points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Draw = Callable[[Path], object]


class DatasetMetadata(NamedTuple):
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


class ModelExport(NamedTuple):
    """How the generator becomes a model of MLflow.

    Attributes:
        command: A program that writes it, and a file about it, into a folder, which is to be its
            last argument. A program of its own: what `torch.export` does to torch's global state
            must not reach a training.
        model_folder: Name of the model's folder in that one.
        about_file: Name of the file: JSON with "step", "checkpoint", "input" (channels, and height
            and width in training), and "card" (Markdown about the training).
    """

    command: Sequence[str]
    model_folder: str
    about_file: str


@dataclass(frozen=True)
class RunMetadata:
    """The story of a run.

    Attributes:
        params: What a person compares, by short name.
        tags: Where, by whom and with which versions it was run.
        note: A description in Markdown, shown above the run.
        datasets: What it reads.
        first_pictures: Pictures to draw at the start, by file name.
        last_pictures: Pictures to draw at the end.
        export: Makes the model to log at the end; ``None`` for none.
    """

    params: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    datasets: Sequence[DatasetMetadata] = ()
    first_pictures: Mapping[str, Draw] = field(default_factory=dict)
    last_pictures: Mapping[str, Draw] = field(default_factory=dict)
    export: ModelExport | None = None
