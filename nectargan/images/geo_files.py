"""GeoTIFF files, with their coordinates and the value that stands for "no data"."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nectargan.errors import DataError
from nectargan.images.file_kinds import first_directory
from nectargan.images.pillow_raw import is_read_whole, pillow_kind
from nectargan.images.raw import ALL, Kind, RawImage, Values, check_kind, chosen, naming, needed
from nectargan.sources import Source, as_file

_NODATA = 42113
# ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory; those of GDAL
_COORDINATES, _GDAL = (33550, 33922, 34264, 34735), (42112, _NODATA)
_PHOTOMETRIC, _PALETTE = 262, 3

logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # its errors are raised as well
warnings.filterwarnings("ignore", message="Dataset has no geotransform")


def is_geo(path: Source) -> bool:
    """Whether a TIFF has coordinates, or metadata of GDAL; False for a palette of colors."""
    tags = first_directory(path) or {}
    return tags.get(_PHOTOMETRIC) != _PALETTE and any(tag in tags for tag in _COORDINATES + _GDAL)


def geo_kind(path: Source, channels: Sequence[str | int] | None) -> Kind:
    """See `raw_kind`. What Pillow reads in 8 bits needs no other library for its pixels."""
    has_nodata = _NODATA in (first_directory(path) or {})
    if channels in (None, ALL) and not has_nodata and is_read_whole(path):
        kind = pillow_kind(path, None)
        if kind.is_plain:
            return kind
    with _opened(path) as dataset:
        return _kind(dataset, channels)[0]


def read_geo(path: Source, channels: Sequence[str | int] | None) -> RawImage:
    """See `read_raw`."""
    with _opened(path) as dataset:
        kind, order = _kind(dataset, channels)
        values = np.empty((kind.channels, kind.height, kind.width), kind.dtype)
        for band, i in zip(values, order, strict=True):
            dataset.read(i + 1, out=band)
        own = np.ascontiguousarray(np.moveaxis(values, 0, 2))
        return RawImage(own, kind.channel_names, kind.nodata, {"geo": _coordinates(dataset)})


def read_coordinates(path: Source) -> tuple[RawImage, Values]:
    """What a GeoTIFF has beside its pixels, for one that Pillow reads.

    Returns:
        An image without pixels, and where they are valid, ``(H, W)``.
    """
    with _opened(path) as dataset:
        values = np.empty((0, dataset.width, dataset.count), dataset.dtypes[0])
        image = RawImage(values, (), dataset.nodata, {"geo": _coordinates(dataset)})
        return image, dataset.dataset_mask() != 0


def write_geo(path: Path, image: RawImage) -> None:
    """Writes a compressed GeoTIFF with the coordinates that ``image`` was read with.

    If the image was resized since, the transform is scaled.
    """
    rasterio = needed("rasterio", "a GeoTIFF", "geo")
    values, geo = image.values, image.metadata["geo"]
    height, width, count = values.shape
    if values.dtype == np.float16:
        raise DataError("the image has values of float16, which a GeoTIFF does not hold")
    if image.nodata is not None and not _fits(image.nodata, values.dtype):
        raise DataError(f"the nodata value {image.nodata:g} is none of {values.dtype}")
    across, down = geo["size"][1] / width, geo["size"][0] / height
    a, b, c, d, e, f = geo["transform"]
    transform = rasterio.Affine(a * across, b * down, c, d * across, e * down, f)
    crs = rasterio.crs.CRS.from_wkt(geo["crs"]) if geo["crs"] else None
    options = {
        **{"driver": "GTiff", "height": height, "width": width, "count": count},
        **{"dtype": values.dtype.name, "nodata": image.nodata, "compress": "deflate"},
        **{"interleave": geo["interleave"], "BIGTIFF": "IF_SAFER"},
    }
    if geo["gcps"]:
        options |= {"gcps": geo["gcps"], "crs": crs}
    else:
        options |= {"transform": transform, "crs": crs}
    # Without files beside it, for what does not fit into a TIFF.
    with rasterio.Env(GDAL_PAM_ENABLED=False), rasterio.open(path, "w", **options) as dataset:
        dataset.write(np.ascontiguousarray(np.moveaxis(values, 2, 0)))
        dataset.update_tags(**geo["tags"])
        if image.channel_names:
            dataset.descriptions = image.channel_names


def _coordinates(dataset: Any) -> dict[str, Any]:
    """What `write_geo` keeps."""
    crs = dataset.crs or dataset.gcps[1]  # an image with control points has that of these
    return {
        "crs": crs.to_wkt() if crs else None,
        "transform": tuple(dataset.transform)[:6],
        "size": (dataset.height, dataset.width),
        "gcps": dataset.gcps[0],
        "tags": dataset.tags(),
        "interleave": dataset.profile.get("interleave", "pixel"),
    }


@contextmanager
def _opened(path: Source) -> Iterator[Any]:
    with naming(path, "GeoTIFF"), as_file(path) as file:
        rasterio = needed("rasterio", "a GeoTIFF", "geo")
        with rasterio.open(file, driver="GTiff") as dataset:
            yield dataset


def _kind(dataset: Any, channels: Sequence[str | int] | None) -> tuple[Kind, tuple[int, ...]]:
    names: tuple[str, ...] = ()
    if any(dataset.descriptions):
        names = tuple(each or str(i) for i, each in enumerate(dataset.descriptions, 1))
    order = chosen(channels, names, dataset.count)
    if not order:
        raise DataError("it has no bands")
    size = (dataset.height, dataset.width)
    dtype = check_kind(np.result_type(*(dataset.dtypes[i] for i in order)), *size, len(order))
    picked = tuple(names[i] for i in order) if names else ()
    return Kind(dtype, *size, len(order), picked, dataset.nodata), order


def _fits(nodata: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return math.isfinite(nodata) and limits.min <= nodata <= limits.max and nodata % 1 == 0
