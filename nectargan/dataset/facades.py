"""Plans facades: which parts they have and where. `facade_painting` paints them.

All lengths of a plan are fractions of the side of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

Colour = tuple[float, float, float]

LABEL_COLOURS: dict[str, tuple[int, int, int]] = {
    "sky": (0, 0, 170),
    "plaster": (0, 85, 255),
    "brick": (0, 40, 220),
    "stone": (0, 130, 255),
    "roof": (170, 0, 85),
    "cornice": (0, 255, 255),
    "window": (255, 255, 0),
    "door": (255, 85, 0),
    "balcony": (170, 255, 85),
    "shop": (255, 0, 0),
    "ground": (85, 85, 85),
}
WALLS = ("plaster", "brick", "stone")

_WALL_COLOURS: dict[str, Colour] = {
    "plaster": (225, 205, 165),
    "brick": (165, 85, 65),
    "stone": (178, 174, 164),
}


class Piece(NamedTuple):
    """A rectangle of the plan: its kind, its four edges in [0, 1], and its number of divisions."""

    kind: str
    top: float
    left: float
    bottom: float
    right: float
    divisions: int = 1


@dataclass(frozen=True)
class Style:
    """Properties of a facade that its labels do not show: colors, and a seed for the texture."""

    wall: Colour
    trim: Colour
    wood: Colour
    roof: Colour
    cloth: Colour
    sky: Colour
    texture_seed: int


# --- plan --------------------------------------------------------------------------------------


def plan_facade(rng: np.random.Generator) -> tuple[list[Piece], Style]:
    """Plans a facade: its parts in the order of painting, and its style."""
    left, right = rng.uniform(0.0, 0.10), 1.0 - rng.uniform(0.0, 0.10)
    pavement = 1.0 - rng.uniform(0.03, 0.06)
    eaves = rng.uniform(0.12, 0.24)
    material = WALLS[rng.integers(len(WALLS))]
    floors, bays = int(rng.integers(2, 6)), int(rng.integers(2, 7))
    floor_height = (pavement - eaves) / (floors + 0.25)
    ground_floor = pavement - 1.25 * floor_height

    parts = [Piece("sky", 0, 0, 1, 1), Piece("ground", pavement, 0, 1, 1)]
    ridge = max(0.02, eaves - rng.uniform(0.03, 0.13))
    parts.append(Piece("roof", ridge, left, eaves, right, int(rng.integers(0, 4))))
    parts.append(Piece(material, eaves, left, pavement, right))

    edges = _bay_edges(rng, left, right, bays)
    for floor in range(floors - 1):
        top = eaves + (ground_floor - eaves) * floor / (floors - 1)
        bottom = eaves + (ground_floor - eaves) * (floor + 1) / (floors - 1)
        parts += _upper_floor(rng, edges, top, bottom)
    parts += _ground_floor(rng, edges, ground_floor, pavement)

    overhang = 0.012
    parts.append(Piece("cornice", eaves - 0.012, left - overhang, eaves + 0.018, right + overhang))
    if rng.random() < 0.7:
        parts.append(Piece("cornice", ground_floor - 0.008, left, ground_floor + 0.012, right))
    return parts, _style(rng, material)


def _bay_edges(rng: np.random.Generator, left: float, right: float, bays: int) -> list[float]:
    widths = rng.uniform(0.8, 1.25, bays)
    if rng.random() < 0.6:
        widths = (widths + widths[::-1]) / 2
    inner = np.cumsum(widths) / widths.sum()
    return [left, *(left + (right - left) * inner)]


def _upper_floor(
    rng: np.random.Generator, edges: list[float], top: float, bottom: float
) -> list[Piece]:
    height = bottom - top
    share_x, share_y = rng.uniform(0.42, 0.7), rng.uniform(0.5, 0.68)
    divisions = int(rng.integers(1, 4))
    balconies = rng.random() < 0.4
    one_long = rng.random() < 0.3
    windows, rails = [], []
    for a, b in pairwise(edges):
        if rng.random() < 0.06:
            continue  # a bay without a window
        middle, half = (a + b) / 2, (b - a) * share_x / 2
        sill = top + height * (0.22 + share_y)
        windows.append(
            Piece("window", sill - height * share_y, middle - half, sill, middle + half, divisions)
        )
        if balconies and not one_long and rng.random() < 0.75:
            half += (b - a) * 0.1
            rails.append(
                Piece("balcony", sill - height * 0.26, middle - half, sill + 0.012, middle + half)
            )
    if balconies and one_long and windows:
        sill = windows[0].bottom
        first, last = windows[0].left - 0.01, windows[-1].right + 0.01
        rails.append(Piece("balcony", sill - height * 0.26, first, sill + 0.012, last))
    return windows + rails


def _ground_floor(
    rng: np.random.Generator, edges: list[float], top: float, bottom: float
) -> list[Piece]:
    height = bottom - top
    bays = list(pairwise(edges))
    door_bay = int(rng.integers(len(bays)))
    shops = rng.random() < 0.5
    parts = []
    for index, (a, b) in enumerate(bays):
        middle, width = (a + b) / 2, b - a
        if index == door_bay:
            half = min(width * 0.32, height * 0.3)
            parts.append(
                Piece("door", bottom - height * 0.74, middle - half, bottom, middle + half)
            )
        elif shops:
            box = (top + height * 0.16, middle - width * 0.43, bottom, middle + width * 0.43)
            parts.append(Piece("shop", *box, int(rng.integers(2, 5))))
        else:
            half = width * 0.28
            box = (top + height * 0.28, middle - half, top + height * 0.78, middle + half)
            parts.append(Piece("window", *box, 2))
    return parts


def _style(rng: np.random.Generator, material: str) -> Style:
    def near(colour: Colour, spread: float) -> Colour:
        shade = rng.uniform(-spread, spread)
        tint = rng.uniform(-spread / 3, spread / 3, 3)
        r, g, b = (float(c * (1 + shade) + 255 * t / 2) for c, t in zip(colour, tint, strict=True))
        return r, g, b

    return Style(
        wall=near(_WALL_COLOURS[material], 0.10),
        trim=near((232, 228, 216), 0.05),
        wood=near((92, 58, 36), 0.15),
        roof=near((128, 66, 52), 0.12),
        cloth=near((172, 40, 44), 0.12),
        sky=near((118, 168, 222), 0.06),
        texture_seed=int(rng.integers(2**32)),
    )
