"""`turns`: the batches of an epoch, which processes share, and what they agree on with each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nectargan.config.schema import Config
from nectargan.dataset.loader import Batch, PairLoader
from nectargan.distributed import ALONE, World
from nectargan.errors import ConfigError, DataError
from nectargan.interrupts import HeldSignals, end_by_signal


class Turn(NamedTuple):
    """A batch, and what to do after the step.

    Attributes:
        images: The batch of this process, as `PairLoader.epoch` yields it. It is never empty if
            another process has images; see `turns`.
        pairs: Pairs of the batch in all processes; 0 if none of them could be read.
        save: Whether it is time to save a checkpoint.
        stop: Number of the signal that one of the processes got; 0 for none.
    """

    images: Batch
    pairs: int
    save: bool
    stop: int


def check_batch_size(config: Config, processes: int) -> None:
    """Raises `ConfigError` if the processes cannot share a batch equally."""
    batch, parts = config.dataloader.batch_size, config.train.accumulate
    if batch % (processes * parts):
        each = f", each of them in {parts} parts (train.accumulate)," if parts > 1 else ""
        raise ConfigError(
            f"dataloader.batch_size is {batch}, the pairs of all processes together, and "
            f"{processes} processes{each} cannot share it equally; make it a multiple of "
            f"{processes * parts}."
        )


def fill_cache(loader: PairLoader, world: World, signals: HeldSignals) -> None:
    """Fills the cache of a loader in each process, which may take minutes.

    Args:
        loader: The loader.
        world: The processes. All skip the same images then.
        signals: They are not held meanwhile: one ends this process, and thereby the others.

    Raises:
        DataError: In all processes, if one of them cannot read an image.
    """
    if world.size == 1:
        loader.prepare()
        return
    problem = None
    signals.release()
    interrupt(ALONE, signals.number)
    try:
        loader.prepare()
    except DataError as error:
        problem = error
    signals.hold()
    raise_first(world, problem)
    meet_all(loader, world)


def turns(
    loader: PairLoader,
    epoch: int,
    skip: int,
    world: World,
    wants_save: Callable[[], bool] = lambda: False,
    signalled: Callable[[], int] = lambda: 0,
) -> Iterator[Turn]:
    """Loads the batches of an epoch; see `PairLoader.epoch`.

    Several processes tell each other, with one message before each step, how many pairs each one
    could read, and whether one of them must stop. So all skip the same images, and end at the same
    step. A process without an image of a batch gets a pattern instead, which counts for nothing,
    because it must take part in the backward pass.

    Args:
        loader: The loader.
        epoch: The epoch.
        skip: Number of batches to skip at the start.
        world: The processes; ``world.counts`` is set before each batch.
        wants_save: Whether it is time to save; what the main process says is done.
        signalled: Number of the signal that this process got; 0 for none.

    Raises:
        DataError: In all processes, if one of them cannot read an image.
    """
    batches = loader.epoch(epoch, skip=skip)
    if world.size == 1:
        for images in batches:
            yield Turn(images, len(images[0]), wants_save(), 0)
        return
    known = len(loader.bad)
    for _ in range(len(loader) - skip):
        batch = _next(batches)
        count = -1 if isinstance(batch, DataError) else len(batch[0])
        told = world.gather_numbers([count, len(loader.bad) - known, signalled(), wants_save()])
        counts, new, signals, saves = zip(*told, strict=True)
        if min(counts) < 0:
            raise_first(world, batch if isinstance(batch, DataError) else None)
        if any(new):
            meet_all(loader, world)
            known = len(loader.bad)
        if isinstance(batch, DataError):  # which `raise_first` has raised
            raise batch
        world.counts = tuple(counts)
        images = batch if count else tuple(map(_pattern, batch))
        yield Turn(images, sum(counts), bool(saves[0]), max(signals))


def raise_first(world: World, error: DataError | None) -> None:
    """Raises the error of the first process that has one, in all; does nothing if none has."""
    texts = [text for text in world.gather(None if error is None else str(error)) if text]
    if texts:
        raise world.agreed(DataError(texts[0]))


def meet_all(loader: PairLoader, world: World) -> None:
    """Skips the unreadable pairs that any process has found; raises DataError, in all processes, if
    there are too many."""
    found = {index: text for bad in world.gather(loader.bad) for index, text in bad.items()}
    try:
        loader.meet(found)
    except DataError as error:
        raise world.agreed(error) from None


def interrupt(world: World, number: int) -> None:
    """Raises what a signal raises, in all processes; does nothing for 0."""
    if number:
        raise world.agreed(end_by_signal(number))


def _next(batches: Iterator[Batch]) -> Batch | DataError:
    try:
        return next(batches)
    except DataError as error:
        return error


def _pattern(empty: Tensor) -> Tensor:
    """One image of the shape of those of an empty batch, from -1 to 1 so that no norm is 0; of a
    mask, one that is true."""
    shape = 1, *empty.shape[1:]
    if empty.dtype == torch.bool:
        return empty.new_ones(shape)
    return torch.linspace(-1, 1, empty.shape[1:].numel(), device=empty.device).view(shape)
