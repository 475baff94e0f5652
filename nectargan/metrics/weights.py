"""Files with the weights of the metrics' networks: where they are, and where they come from."""

from __future__ import annotations

import os
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from nectargan.errors import CheckpointError
from nectargan.files import digest_of_file, replacing
from nectargan.shell import expanded

VARIABLE = "NECTARGAN_WEIGHTS"
_SECONDS = 20  # without a byte, after which a download is given up


class WeightFile(NamedTuple):
    """A published file of weights.

    Attributes:
        name: Its name; the eight digits in it are the beginning of its SHA-256.
        url: Where it comes from.
        other_names: What others call the same file.
    """

    name: str
    url: str
    other_names: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The beginning of its SHA-256, in hexadecimal."""
        return self.name.removesuffix(".pth").rpartition("-")[2]


_TORCH = "https://download.pytorch.org/models/"
_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
ALEXNET = WeightFile("alexnet-owt-7be5be79.pth", f"{_TORCH}alexnet-owt-7be5be79.pth")
VGG16 = WeightFile("vgg16-397923af.pth", f"{_TORCH}vgg16-397923af.pth")
INCEPTION = WeightFile(
    "pt_inception-2015-12-05-6726825d.pth",
    f"{_FID}pt_inception-2015-12-05-6726825d.pth",
    ("weights-inception-2015-12-05-6726825d.pth",),
)


class FoundFile(NamedTuple):
    """A file of weights on this machine.

    Attributes:
        path: The file.
        digest: Its SHA-256, in hexadecimal.
    """

    path: Path
    digest: str


def find_weights(file: WeightFile, folder: Path | None = None) -> FoundFile:
    """A file of weights: in ``folder``, in the folder that ``NECTARGAN_WEIGHTS`` names, in torch
    hub's cache, or downloaded into that cache, in this order.

    Args:
        file: The file.
        folder: Where to look first.

    Raises:
        CheckpointError: it is nowhere and cannot be downloaded, or the one that is found is not
            the published one.
    """
    import torch

    cache = Path(torch.hub.get_dir()) / "checkpoints"
    variable = os.environ.get(VARIABLE, "")
    folders = [folder, Path(expanded(variable)) if variable else None, cache]
    for place in filter(None, folders):
        for name in (file.name, *file.other_names):
            if (place / name).exists():
                return _checked(place / name, file)
    try:
        _download(file, cache / file.name)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{_about(file)} cannot be downloaded ({reason}); put it in the folder of --weights or "
            f"{VARIABLE}, or in '{cache}'."
        ) from None
    return _checked(cache / file.name, file)


def _about(file: WeightFile) -> str:
    return f"{file.name} (SHA-256 {file.digest}...) from {file.url}"


def _checked(path: Path, file: WeightFile) -> FoundFile:
    try:
        digest = digest_of_file(path)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error.strerror}.") from None
    if not digest.startswith(file.digest):
        raise CheckpointError(
            f"'{path}' has the SHA-256 {digest[:16]}...; put {_about(file)} in its place."
        )
    return FoundFile(path, digest)


def _download(file: WeightFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        urllib.request.urlopen(file.url, timeout=_SECONDS) as answer,  # noqa: S310 - ours, https
        replacing(path) as part,
        part.open("wb") as stream,
    ):
        shutil.copyfileobj(answer, stream)
