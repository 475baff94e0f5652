"""Images of any kind that Python has, and generated images of the same kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nectargan.dataset.raw_pairs import with_channels
from nectargan.errors import DataError
from nectargan.images.pillow_files import in_8_bits
from nectargan.inference.pictures import (
    Picture,
    as_in_training,
    from_image,
    from_wide,
    read_picture,
    read_values,
    with_values,
)
from nectargan.inference.values import Values
from nectargan.shell import expanded

if TYPE_CHECKING:
    from nectargan.inference.model import Model

Generate = Callable[[list[Values]], list[Values]]


def generate_images(images: Any, generate: Generate, model: Model) -> Any:
    """Generates what `Model.__call__` does.

    Args:
        images: An image, or a list of images.
        generate: From values ``(H, W, C)`` of one size to those generated.
        model: The generator.
    """
    channels, mapping = model.in_channels, model.input_values
    if isinstance(images, (list, tuple)):
        return [generate_images(each, generate, model) for each in images]
    if mapping is not None and isinstance(images, (str, os.PathLike)):
        path, load = Path(expanded(os.fspath(images))), model.config.dataloader.load
        picture = read_values(path, mapping, channels, load.input_channels)
        return with_values(picture, generate([picture.pixels])[0]).values
    if mapping is not None and isinstance(images, Image.Image):
        is_plain = not images.mode.startswith(("I", "F"))
        values = np.asarray(in_8_bits(images, 255) if is_plain else images)
        values = values[..., None] if values.ndim == 2 else values
        known = with_channels(values, channels, "the image", "input_nc")
        return generate([as_in_training(known, mapping.dtype, "the image")])[0]
    if mapping is not None and isinstance(images, (np.ndarray, Tensor)):
        return _of_units(images, generate, channels)
    if isinstance(images, (str, os.PathLike)):
        picture = read_picture(Path(expanded(os.fspath(images))), channels)
        return _as_image(picture, generate([picture.pixels])[0])
    if isinstance(images, Image.Image):
        picture = _of_image(images, channels)
        return _as_image(picture, generate([picture.pixels])[0])
    if isinstance(images, np.ndarray):
        return _of_array(images, generate, channels)
    if isinstance(images, Tensor):
        return _of_tensor(images, generate, channels)
    raise DataError(
        f"An image is a PIL image, a NumPy array, a tensor or a path, or a list of these; got "
        f"{type(images).__name__}."
    )


def _of_units(images: np.ndarray | Tensor, generate: Generate, channels: int) -> Any:
    """Arrays ``(..., H, W, C)`` or tensors ``(..., C, H, W)`` in the units of the files."""
    if images.ndim == 4:
        made = [_of_units(each, generate, channels) for each in images]
        return torch.stack(made) if isinstance(images, Tensor) else np.stack(made)
    if isinstance(images, Tensor):
        _check(
            images.dim() == 3 and images.shape[0] == channels,
            tuple(images.shape),
            f"({channels}, H, W)",
        )
        values = images.detach().cpu().permute(1, 2, 0).contiguous().numpy()
        units = generate([values])[0]
        known = units.astype(np.int32) if units.dtype == np.uint16 else units
        return torch.from_numpy(known).permute(2, 0, 1).to(images.device)
    image = images[..., None] if images.ndim == 2 and channels == 1 else images
    _check(
        image.ndim == 3 and image.shape[2] == channels and image.size > 0,
        images.shape,
        f"(H, W, {channels})",
    )
    if image.dtype.kind not in "iuf":
        raise DataError(
            f"The values of an image are {image.dtype}; allowed are integers and floats, in the "
            "units of the files of the training."
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise DataError("An image has values that are NaN or infinite; fill them first.")
    units = generate([image])[0]
    return units[..., 0] if images.ndim == 2 and units.shape[2] == 1 else units


def _of_image(image: Image.Image, channels: int) -> Picture:
    is_wide = image.mode.startswith("I")
    values = np.asarray(image) if is_wide else np.zeros(1)
    if is_wide and values.size and values.min() >= 0 and values.max() <= 65535:
        return from_wide(values.astype(np.uint16)[..., None], channels)
    try:
        return from_image(in_8_bits(image, 65535 if is_wide else 255), channels)
    except DataError as error:
        raise DataError(f"The image cannot be used: {error}.") from None


def _as_image(picture: Picture, made: Values) -> Image.Image:
    if made.dtype == np.uint16 and (made.shape[2] > 1 or picture.alpha is not None):
        made = (made >> 8).astype(np.uint8)  # Pillow has 16 bits for grey alone
    if picture.alpha is not None and made.shape[2] in (1, 3):
        alpha = picture.alpha if picture.alpha.dtype == np.uint8 else picture.alpha >> 8
        made = np.concatenate([made, alpha.astype(made.dtype)[..., None]], axis=2)
    if made.dtype == np.uint16:
        return Image.fromarray(made[..., 0])
    return Image.fromarray(made[..., 0] if made.shape[2] == 1 else made)


def _of_array(images: np.ndarray, generate: Generate, channels: int) -> np.ndarray:
    """``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``."""
    if images.ndim == 4:
        return np.stack([_of_array(each, generate, channels) for each in images])
    image = images[..., None] if images.ndim == 2 and channels == 1 else images
    _check(image.ndim == 3 and image.shape[2] == channels, images.shape, f"(H, W, {channels})")
    (made,) = generate([_values(image)])
    kept = made.astype(images.dtype) if images.dtype.kind == "f" else made
    return kept[..., 0] if images.ndim == 2 and kept.shape[2] == 1 else kept


def _of_tensor(images: Tensor, generate: Generate, channels: int) -> Tensor:
    """``(C, H, W)`` or ``(N, C, H, W)``."""
    if images.dim() == 4:
        return torch.stack([_of_tensor(each, generate, channels) for each in images])
    _check(images.dim() == 3 and images.shape[0] == channels, images.shape, f"({channels}, H, W)")
    plain = images.detach().cpu()
    if plain.is_floating_point():
        plain = plain.float()
    (made,) = generate([_values(plain.permute(1, 2, 0).contiguous().numpy())])
    result = torch.from_numpy(np.ascontiguousarray(made.transpose(2, 0, 1)))
    return result.to(images.device, images.dtype)


def _values(image: np.ndarray) -> Values:
    _check(image.size > 0, image.shape, "at least one pixel")
    if image.dtype in (np.uint8, np.uint16):
        return image
    if image.dtype.kind != "f":
        raise DataError(
            f"The values of an image are {image.dtype}; allowed are uint8, uint16, and floats in "
            "[0, 1]."
        )
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # also a NaN
        raise DataError(
            f"The values of an image go from {low:g} to {high:g}; floats must be in [0, 1]. "
            "Model.generate takes batches in [-1, 1]."
        )
    return image.astype(np.float32)


def _check(is_right: bool, shape: Any, allowed: str) -> None:
    if not is_right:
        raise DataError(f"An image of shape {tuple(shape)} was given; this model takes {allowed}.")
