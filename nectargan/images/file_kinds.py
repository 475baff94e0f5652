"""Identifies files that cannot be read as an image by their first bytes."""

from __future__ import annotations

import string
import struct
from typing import Any

from nectargan.sources import Source, open_source
from nectargan.wording import counted

# The first bytes of a file, and the kind of file.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer; 'git lfs pull' fetches the image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image, which is not read"),
    (b"PF\n", "a PFM image of floating-point numbers, which is not read"),
    (b"Pf\n", "a PFM image of floating-point numbers, which is not read"),
    (b"8BPS", "a Photoshop document, which is not read"),
    (b"%!PS", "a PostScript document"),
    (b"\xff\x0a", "a JPEG XL image, which is not read"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image, which is not read"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image, which is not read"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image, which is not read"),
    (b"<svg", "an SVG drawing, which is not read"),
    (b"<!DOCTYPE", "a web page; a download has failed"),
    (b"<html", "a web page; a download has failed"),
)
_BRANDS = {
    b"avif": "an AVIF image, which needs Pillow 11.3 or newer, built with AVIF",
    b"avis": "an AVIF sequence, which needs Pillow 11.3 or newer, built with AVIF",
    b"heic": "a HEIC image, which is not read",
    b"heix": "a HEIC image, which is not read",
    b"mif1": "a HEIF image, which is not read",
}
_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"RIFF", "WebP"),
    *((f"P{i}".encode(), "PPM") for i in range(1, 8)),
)
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_TIFF_TYPES = {1: "unsigned integers", 2: "signed integers", 3: "floating-point numbers"}


def what_it_is(path: Source, read: str) -> str:
    """Describes a file that Pillow cannot identify, as the end of a sentence.

    Args:
        path: A regular file.
        read: Description of the supported pixels.
    """
    with open_source(path) as file:
        head = file.read(4096)
        for beginning, kind in _IMAGES:
            if head.startswith(beginning):
                explain = {"PNG": _png, "TIFF": _tiff}.get(kind)
                why = explain(path, head, read) if explain else ""
                return why or f"not an image: its {kind} header is damaged"
    return f"not an image: it is {_other(head)}"


def _other(head: bytes) -> str:
    if not head:
        return "empty"
    for beginning, kind in _BEGINNINGS:
        if head.lstrip().startswith(beginning):
            return kind
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a video, or another file of that family")
    if head[128:132] == b"DICM":
        return "a DICOM file, which is not read"
    if not head.strip(b"\0"):
        return "nothing but zero bytes"
    if all(byte in string.printable.encode() for byte in head):
        return f"text that begins with {head[:20].decode()!r}"
    return "of an unknown kind"


def _png(path: Source, head: bytes, read: str) -> str:
    if head[12:16] != b"IHDR" or len(head) < 33:
        return ""
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    if not width or not height:
        return f"not an image: its PNG header says {height} x {width} pixels"
    if depth not in _PNG_DEPTHS.get(colour, ()):
        kind = f"{depth} bits with color type {colour}"
        return f"not an image: its PNG header says {kind}, which does not exist"
    return ""


def first_directory(path: Source) -> Any:
    """The tags of the first page of a TIFF by number; ``None`` if they are damaged."""
    from PIL import TiffImagePlugin

    try:
        with open_source(path) as file:
            head = file.read(16)
            directory = TiffImagePlugin.ImageFileDirectory_v2(
                head if head[2:4] in (b"+\0", b"\0+") else head[:8]  # BigTIFF
            )
            file.seek(directory.next)
            directory.load(file)
            return dict(directory)
    except Exception:  # Pillow may raise anything for a damaged header
        return None


def _tiff(path: Source, head: bytes, read: str) -> str:
    """Describes the pixels of a TIFF that Pillow cannot read."""
    directory = first_directory(path)
    try:
        bits = directory[258]
        count = int(directory.get(277, 1))
        kind = _TIFF_TYPES.get(directory.get(339, (1,))[0], "numbers of another kind")
        height, width = int(directory[257]), int(directory[256])
    except (TypeError, LookupError, ValueError):
        return ""
    if not height or not width:
        return f"not an image: its TIFF header says {height} x {width} pixels"
    found = f"a TIFF with {counted(count, 'channel')} of {bits[0]}-bit {kind}"
    if count <= 4 and bits[0] in (8, 16) and kind == _TIFF_TYPES[1]:
        return f"{found}, in a form that Pillow does not read; save it as PNG"
    return f"{found}; supported are {read}"
