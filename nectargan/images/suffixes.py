"""The suffixes of the image files that are read."""

from __future__ import annotations

TIFFS = frozenset([".tif", ".tiff"])
PORTABLE = frozenset([".pbm", ".pgm", ".pnm", ".ppm"])
JPEGS = frozenset([".jfif", ".jpeg", ".jpg"])
# What Pillow writes, and reads but for some TIFFs.
PILLOW_SUFFIXES = TIFFS | PORTABLE | JPEGS | {".avif", ".bmp", ".gif", ".png", ".webp"}
NUMPYS = frozenset([".npy", ".npz"])
IMAGE_SUFFIXES = PILLOW_SUFFIXES | NUMPYS | {".exr"}
