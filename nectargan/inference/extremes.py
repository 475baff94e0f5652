"""The images on which a model is best and worst, kept while it is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from nectargan.errors import RunError
from nectargan.record.run_directory import RunDirectory
from nectargan.record.test_record import TEST_EXTREMES
from nectargan.trainers.validation import PLAIN_VIEW, View, save_grid


class Extremes:
    """Of each metric, the images with the lowest and the highest values so far.

    Attributes:
        images: Input, generated and target by the row of the image, ``(C, H, W)`` each: float32 in
            [-1, 1], in the memory of the host.
    """

    def __init__(self) -> None:
        self.images: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._found: dict[str, list[tuple[float, int]]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Number of images that were looked at."""
        return self._count

    def look(
        self, source: Tensor, generated: Tensor, target: Tensor, values: Mapping[str, Tensor]
    ) -> None:
        """Takes the next images.

        Args:
            source: Inputs ``(N, C, H, W)``, float32 in [-1, 1].
            generated: What was generated for them, in [0, 1].
            target: Targets, in [-1, 1].
            values: A value of each image by metric, ``(N,)`` or a scalar.
        """
        first = self._count
        self._count += len(source)
        for name, each in values.items():
            rows = range(first, self._count)
            new = zip(each.expand(len(source)).tolist(), rows, strict=True)
            self._add(name, [(value, row) for value, row in new if not math.isnan(value)])
        kept = self._forget()
        for row in sorted(kept & {*range(first, self._count)}):
            i = row - first
            self.images[row] = (
                source[i].cpu().clone(),
                generated[i].detach().float().cpu().mul(2).sub_(1),
                target[i].cpu().clone(),
            )

    def _add(self, name: str, new: list[tuple[float, int]]) -> None:
        found = sorted([*self._found.get(name, ()), *new])
        self._found[name] = found[:TEST_EXTREMES] + found[TEST_EXTREMES:][-TEST_EXTREMES:]

    def _forget(self) -> set[int]:
        """Keeps only the images that are still the best or worst; returns their rows."""
        kept = {row for found in self._found.values() for _, row in found}
        self.images = {row: image for row, image in self.images.items() if row in kept}
        return kept

    @classmethod
    def joined(cls, parts: Sequence[Extremes]) -> Extremes:
        """The extremes of images that were looked at in consecutive parts."""
        whole = cls()
        for part in parts:
            first = len(whole)
            for name, found in part._found.items():
                whole._add(name, [(value, first + row) for value, row in found])
            whole.images |= {first + row: images for row, images in part.images.items()}
            whole._count += len(part)
        whole._forget()
        return whole

    def save(self, run: RunDirectory, split: str, view: View = PLAIN_VIEW) -> None:
        """Writes the images into a run directory, see `RunDirectory.test_image`.

        Args:
            run: The run directory.
            split: The split that was measured.
            view: How the images are shown.

        Raises:
            RunError: they cannot be written.
        """
        try:
            for row, (source, generated, target) in sorted(self.images.items()):
                save_grid([(source, target)], [generated], run.test_image(split, row), view)
        except OSError as error:
            raise RunError(f"'{error.filename}' cannot be written: {error.strerror}.") from None
