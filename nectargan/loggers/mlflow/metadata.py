"""What is logged to an MLflow run besides its points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Draw = Callable[[Path], object]


class DatasetMetadata(NamedTuple):
    """A data set that a run reads.

    Attributes:
        name: Name of the data set, such as that of its folder.
        context: "training" or "validation".
        path: Path of its folder.
        digest: Hash of the names and contents of its files, at most 36 characters.
        profile: Counts and sizes by name.
    """

    name: str
    context: str
    path: str
    digest: str
    profile: Mapping[str, Any]


class ModelExport(NamedTuple):
    """How the generator is exported as an MLflow model.

    Attributes:
        command: A command that writes the model, and a file about it, to the folder that is
            appended as its last argument. It runs in another process, because `torch.export`
            changes global state of torch, which must not affect a training.
        model_folder: Name of the folder with the model in that folder.
        about_file: Name of the file about the model: JSON with "step", "checkpoint", "input"
            (channels, and height and width in training) and "card" (Markdown about the training).
    """

    command: Sequence[str]
    model_folder: str
    about_file: str


@dataclass(frozen=True)
class RunMetadata:
    """What is logged about a run.

    Attributes:
        params: The options that people compare, by short name.
        tags: Where, by whom and with which versions it was run.
        note: A description in Markdown, which MLflow shows on the page of the run.
        datasets: The data sets that it reads.
        first_pictures: Functions that draw figures at the start, by file name.
        last_pictures: Functions that draw figures at the end, by file name.
        export: How to export the model at the end; ``None`` for no model.
    """

    params: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    datasets: Sequence[DatasetMetadata] = ()
    first_pictures: Mapping[str, Draw] = field(default_factory=dict)
    last_pictures: Mapping[str, Draw] = field(default_factory=dict)
    export: ModelExport | None = None
