"""`World`: the processes that train one run together, as one of them sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")


class World:
    """The processes of a run, as one of them sees them. This class is a single process.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        local_rank: Number of this process among those on this machine, from 0.
        local_size: Number of processes on this machine.
        counts: Pairs of the current batch in each process, by rank; set before each step.
        is_whole: Whether all processes are still there, as far as this one knows. If not, it must
            not wait for them.
        can_capture: Whether what the devices exchange can be part of a CUDA graph; see `use`.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    counts: tuple[int, ...] = (1,)
    is_whole = True
    can_capture = True

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes the run directory, the one with rank 0."""
        return self.rank == 0

    @property
    def part(self) -> float:
        """The part of the current batch that this process has, from 0 to 1."""
        return self.counts[self.rank] / (sum(self.counts) or 1)

    def slice_of(self, count: int) -> slice:
        """The part of ``count`` things that this process takes. The first processes take one more
        if they cannot be divided equally."""
        each, more = divmod(count, self.size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    # --- what the processes tell each other -------------------------------------------------------

    def from_main(self, make: Callable[[], T]) -> T:
        """Calls ``make`` in the main process only; returns the result, a copy, in all.

        Raises:
            PeerError: In the others, if ``make`` raises.
        """
        return make()

    def gather(self, value: T) -> list[T]:
        """The value of each process, by rank; it is pickled."""
        return [value]

    def gather_numbers(self, numbers: Sequence[int]) -> list[list[int]]:
        """The numbers of each process, by rank; each has as many."""
        return [list(numbers)]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors of all processes, in place; the same bits in each."""
        return tensor

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The tensor of the main process, in place."""
        return tensor

    # --- networks ---------------------------------------------------------------------------------

    def choose_device(self, name: str) -> str:
        """The name of the device of this process for a value of ``common.device``.

        Raises:
            ConfigError: The processes of this machine cannot train on it.
        """
        return name

    def use(self, device: torch.device, captured: bool = False) -> None:
        """Connects the devices of the processes.

        Args:
            device: That of this process.
            captured: Whether the step, and thereby what the devices exchange, shall be captured.
        """

    def wrapped(self, network: nn.Module, finds_unused: bool = False) -> nn.Module:
        """The network as a training step calls it: its backward pass sums the gradients of all
        processes. The network itself is unchanged, but has the weights of the main process.

        Args:
            network: The network, on its device.
            finds_unused: Whether a forward pass may leave out parameters.
        """
        return network

    def summing(self, wrapper: object, sums: bool) -> AbstractContextManager[None]:
        """A context manager for a forward and a backward pass.

        Args:
            wrapper: What `wrapped` returned.
            sums: Whether the backward pass sums the gradients; if not, a later one does.
        """
        return nullcontext()

    def with_synchronized_norms(self, network: nn.Module, place: str) -> nn.Module:
        """The network with batch norm over the batch of all processes, if it has batch norm.

        Args:
            network: The network.
            place: Its section of the config, for error messages.

        Raises:
            ConfigError: It has batch norm, and the device is not CUDA.
        """
        return network

    # --- the end ----------------------------------------------------------------------------------

    def agreed(self, error: BaseException) -> BaseException:
        """Marks an error as one that every process raises at the same point. Returns it."""
        return error

    def is_agreed(self, error: BaseException) -> bool:
        """Whether every process raises this error at the same point, and all can go on together,
        as to save a checkpoint."""
        return True

    def together(self) -> AbstractContextManager[None]:
        """A context manager for what the processes do together. An error that only this process
        raises ends the others; one of a lost connection becomes a `PeerError`."""
        return nullcontext()


ALONE = World()
