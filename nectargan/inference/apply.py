"""`apply`: a generator used on image files, decoding and writing beside computing."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nectargan.build import height_and_width
from nectargan.dataset.paired_dataset import RESIZES
from nectargan.errors import DataError
from nectargan.files import is_stream
from nectargan.images.raw import RawImage
from nectargan.images.writing import check_format
from nectargan.inference.inputs import Job
from nectargan.inference.model import Model
from nectargan.inference.picture_files import write_picture
from nectargan.inference.pictures import (
    Picture,
    Pixels,
    pixels_in,
    read_picture,
    read_values,
    with_values,
)

# Pixels that wait to be computed or written; more would only fill the memory.
_MOST_WAITING = 2**25
_MOST_THREADS = 8
_CUDA_BATCH = 16

Generate = Callable[[Sequence[Pixels]], list[Pixels]]


@dataclass
class Outcome:
    """What became of the images.

    Attributes:
        done: Images written.
        kept: Files that were there already.
        bad: The images that could not be used, with the reason.
        notes: What was not used of an image, or not kept of it, by the words for it: how often, and
            where first.
        seconds: How long it took.
    """

    done: int = 0
    kept: int = 0
    bad: list[str] = field(default_factory=list)
    notes: dict[str, tuple[int, str]] = field(default_factory=dict)
    seconds: float = 0.0

    def note(self, words: str, where: str) -> None:
        """Counts a note."""
        count, first = self.notes.get(words, (0, where))
        self.notes[words] = (count + 1, first)

    def refuse(self, job: Job, reason: str) -> None:
        """Names an image that could not be used."""
        self.bad.append(f"{name_of(job.source)}: {reason.rstrip('.')}")


class Reading(NamedTuple):
    """How images are read and written.

    Attributes:
        side: "A" or "B" of images that are pairs side by side; ``None`` for whole ones.
        resize: Bring each to the size of training.
        overwrite: Replace files that are there.
        suffix: Of the format to write; ``None`` as the file's name says.
        batch: Images of one size to compute at once; ``None`` as in training, on CUDA at least 16.
        seed: Of dropout, if it is on; each batch has random numbers of its own.
    """

    side: str | None = None
    resize: bool = False
    overwrite: bool = False
    suffix: str | None = None
    batch: int | None = None
    seed: int = 0


def apply_model(
    model: Model,
    jobs: Sequence[Job],
    reading: Reading,
    generate: Generate,
    progress: Callable[[], object] = lambda: None,
) -> Outcome:
    """Generates an image for each image and writes it.

    Args:
        model: The generator.
        jobs: What to read and to write.
        reading: How.
        generate: From the pixels of images of one size to those generated.
        progress: Called whenever an image is done, however it went.
    """
    outcome, start = Outcome(), time.perf_counter()
    wanted = []
    for job in jobs:
        target = job.target
        if target is None or reading.overwrite or not target.exists() or is_stream(target):
            wanted.append(job)
        else:
            outcome.kept += 1
            progress()
    batch = reading.batch or model.config.dataloader.batch_size
    if reading.batch is None and model.device.type == "cuda":
        batch = max(batch, _CUDA_BATCH)
    threads = min(_MOST_THREADS, os.cpu_count() or 1, max(1, len(wanted)))
    with (
        ThreadPoolExecutor(threads, "nectargan-read") as readers,
        ThreadPoolExecutor(threads, "nectargan-write") as writers,
    ):
        writing = _Writing(writers, outcome, reading, progress)
        read = _read_ahead(readers, model, wanted, reading, threads + batch)
        try:
            for number, group in enumerate(
                _grouped(read, batch, model.has_8_bits, outcome, progress)
            ):
                # So that an image does not depend on how many were read before it failed.
                torch.manual_seed(reading.seed + number)
                try:
                    made = generate([picture.pixels for _, picture in group])
                except DataError as error:  # too little memory
                    for job, _ in group:
                        outcome.refuse(job, str(error))
                        progress()
                    continue
                for (job, picture), pixels in zip(group, made, strict=True):
                    writing.submit(job, _finished(model, picture, pixels))
            writing.finish()
        except BaseException:
            for pool in (readers, writers):
                pool.shutdown(wait=False, cancel_futures=True)
            raise
    outcome.seconds = time.perf_counter() - start
    return outcome


def check_formats(model: Model, jobs: Sequence[Job], suffix: str | None) -> None:
    """Raises `DataError` if a file is to be written in a format that does not hold what a model of
    other than plain 8-bit images makes.

    Args:
        model: The generator.
        jobs: What to write.
        suffix: Of the format; ``None`` as the name of each file says.
    """
    if model.output_values is None:
        return
    image = RawImage(np.empty((1, 1, model.out_channels), model.output_values.dtype))
    for job in jobs:
        of_file = ".png" if job.target is None else job.target.suffix.lower()
        try:
            check_format(suffix or of_file, image)
        except DataError as error:
            raise DataError(f"'{name_of(job.source)}': {error} (--format).") from None


def name_of(path: Path | None, otherwise: str = "standard input") -> str:
    """What a user calls an image."""
    return otherwise if path is None else str(path)


# --- reading -------------------------------------------------------------------------------------


def _read(model: Model, job: Job, reading: Reading) -> Picture:
    if job.source is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "stdin"
            path.write_bytes(sys.stdin.buffer.read())
            try:
                picture = _read_file(model, path)
            except DataError as error:
                raise DataError(str(error).removeprefix(f"{path}: ")) from None
    else:
        try:
            picture = _read_file(model, job.source)
        except DataError as error:
            raise DataError(str(error).removeprefix(f"{job.source}: ")) from None
    if reading.side is not None:
        picture = picture.half(reading.side)
    if reading.resize:
        load = model.config.dataloader.load
        of_input = load.resize if isinstance(load.resize, str) else load.resize[0]
        picture = picture.resized(height_and_width(load.crop_size), RESIZES[of_input])
    return picture


def _read_file(model: Model, path: Path) -> Picture:
    if model.input_values is None:
        return read_picture(path, model.in_channels)
    selection = model.config.dataloader.load.input_channels
    return read_values(path, model.input_values, model.in_channels, selection)


def _read_ahead(
    pool: ThreadPoolExecutor, model: Model, jobs: Sequence[Job], reading: Reading, most: int
) -> Iterator[tuple[Job, Future[Picture]]]:
    """The pictures in the order of the jobs, read by threads some images ahead."""
    waiting: deque[tuple[Job, Future[Picture], int]] = deque()
    pixels = 0
    for job in jobs:
        size = 0 if job.source is None else pixels_in(job.source)
        while waiting and (len(waiting) >= most or pixels + size > _MOST_WAITING):
            first, future, its_size = waiting.popleft()
            yield first, future
            pixels -= its_size
        waiting.append((job, pool.submit(_read, model, job, reading), size))
        pixels += size
    while waiting:
        first, future, _ = waiting.popleft()
        yield first, future


def _grouped(
    read: Iterator[tuple[Job, Future[Picture]]],
    batch: int,
    has_8_bits: bool,
    outcome: Outcome,
    progress: Callable[[], object],
) -> Iterator[list[tuple[Job, Picture]]]:
    """Batches of pictures of one size and type; what cannot be read is noted as bad."""
    groups: dict[object, list[tuple[Job, Picture]]] = {}
    pixels = 0
    for job, future in read:
        try:
            picture = future.result()
        except DataError as error:
            outcome.refuse(job, str(error))
            progress()
            continue
        notes = picture.metadata.notes
        if has_8_bits and picture.pixels.dtype != np.uint8:
            notes += ("its 16 bits pass through the 8 of this exported model",)
        for note in notes:
            outcome.note(note, name_of(job.source))
        key = picture.pixels.shape, picture.pixels.dtype
        group = groups.setdefault(key, [])
        group.append((job, picture))
        area = picture.size[0] * picture.size[1]
        pixels += area
        while groups and (len(group) >= batch or pixels > _MOST_WAITING):
            # The one that is full, else the one that waits longest.
            chosen = key if len(group) >= batch else next(iter(groups))
            full = groups.pop(chosen)
            pixels -= sum(p.size[0] * p.size[1] for _, p in full)
            yield full
            group = []
    yield from groups.values()


def _finished(model: Model, picture: Picture, pixels: Pixels) -> Picture:
    """The picture to write: what was generated, with all that the input has besides."""
    if model.output_values is not None:
        channels = model.config.dataloader.load.target_channels
        return replace(picture, raw=with_values(picture, pixels, channels))
    # A generator that makes alpha has made it.
    alpha = picture.alpha if pixels.shape[2] in (1, 3) else None
    return replace(picture, pixels=pixels, alpha=alpha)


# --- writing -------------------------------------------------------------------------------------


class _Writing:
    """Writes pictures in threads, no more at a time than memory is meant to hold."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        outcome: Outcome,
        reading: Reading,
        progress: Callable[[], object],
    ) -> None:
        self._pool, self._outcome, self._reading = pool, outcome, reading
        self._progress = progress
        self._waiting: deque[tuple[Job, Future[list[str]], int]] = deque()
        self._pixels = 0

    def submit(self, job: Job, picture: Picture) -> None:
        area = picture.size[0] * picture.size[1]
        while self._waiting and (self._pixels + area > _MOST_WAITING or self._waiting[0][1].done()):
            self._take()
        future = self._pool.submit(_write, job, picture, self._reading.suffix)
        self._waiting.append((job, future, area))
        self._pixels += area

    def finish(self) -> None:
        while self._waiting:
            self._take()

    def _take(self) -> None:
        job, future, area = self._waiting.popleft()
        self._pixels -= area
        try:
            for lost in future.result():
                self._outcome.note(f"{lost} cannot be kept in this format", name_of(job.source))
            self._outcome.done += 1
        except DataError as error:  # the format cannot hold it
            self._outcome.refuse(job, str(error))
        except OSError as error:
            reason = error.strerror or str(error)
            where = name_of(job.target, "standard output")
            self._outcome.refuse(job, f"'{where}' cannot be written: {reason}")
        self._progress()


def _write(job: Job, picture: Picture, suffix: str | None) -> list[str]:
    if job.target is not None:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        return write_picture(job.target, picture, suffix)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stdout"
        lost = write_picture(path, picture, suffix or ".png")
        sys.stdout.buffer.write(path.read_bytes())
        sys.stdout.buffer.flush()
    return lost
