"""`World`: the processes that train one run together.

torchrun starts the processes and tells each its rank in environment variables; `joined` reads them
and connects the processes. No other module reads these variables or calls torch.distributed. A run
in a single process has the world `ALONE`, whose methods do nothing.

Two groups connect the processes. What they tell each other (counts, decisions, rows of the record)
travels between CPUs, through gloo. Gradients and metrics travel between devices, through NCCL on
CUDA. A process that ends breaks the connection, and the others then end with a `PeerError` that
says why: what ended the first one is left in the store of the rendezvous.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nectargan.errors import ConfigError, NectarGANError, PeerError, RunError
from nectargan.interrupts import default_signals
from nectargan.wording import one_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")

# How long a process waits for another one. Only a process that hangs, or a lost network, takes so
# long: a connection to a process that ends is closed at once.
_TIMEOUT = timedelta(minutes=30)
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# Keys of the store: why the first process ended, and the error of the main one.
_LEFT, _OF_MAIN = "left", "of main"
_PATIENCE = timedelta(seconds=5)
# Parts of the messages of gloo, NCCL and the store about a lost connection.
_LOST = ("Connection closed", "Connection reset", "Broken pipe", "Timed out", "timed out", "NCCL")


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

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensor of each process, by rank; all have one shape, dtype and kind of device."""
        return [tensor]

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


class _Processes(World):
    """Several processes, connected by torch.distributed."""

    def __init__(self, timeout: timedelta) -> None:
        from torch import distributed

        dist: Any = distributed  # its stubs do not export all that its documentation names
        self._timeout = timeout
        self.rank, self.size, self.local_rank, self.local_size = (
            int(os.environ[name]) for name in _VARIABLES
        )
        self.counts = (1,) * self.size
        try:
            with default_signals():
                store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
                # torchrun may keep the store when it starts the processes again, with the
                # addresses of those that are gone.
                attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
                store = dist.PrefixStore(f"attempt {attempt}", store)
                self._store = dist.PrefixStore("nectargan", store)
                dist.init_process_group(
                    "gloo", store=store, rank=self.rank, world_size=self.size, timeout=timeout
                )
        except (RuntimeError, ValueError) as error:
            raise RunError(
                f"Rank {self.rank} cannot connect to the other {self.size - 1} processes: "
                f"{one_line(error)[:300]}."
            ) from None
        self._dist = dist
        self._group: Any = None  # of the devices; None for the CPU
        self._agreed: BaseException | None = None

    # --- what the processes tell each other -------------------------------------------------------

    def from_main(self, make: Callable[[], T]) -> T:
        self._require_whole()
        with self.together():
            box: list[Any] = [make() if self.is_main else None]
            self._dist.broadcast_object_list(box)
            return cast("T", box[0])

    def gather(self, value: T) -> list[T]:
        self._require_whole()
        values: list[Any] = [None] * self.size
        self._dist.all_gather_object(values, value)
        return values

    def gather_numbers(self, numbers: Sequence[int]) -> list[list[int]]:
        import torch

        found = self.all_gather(torch.tensor(numbers, dtype=torch.int64))
        return [each.tolist() for each in found]

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        import torch

        self._require_whole()
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        self._dist.all_gather(found, tensor.contiguous(), group=self._group_of(tensor))
        return found

    def all_reduce(self, tensor: Tensor) -> Tensor:
        self._require_whole()
        self._dist.all_reduce(tensor, group=self._group_of(tensor))
        return tensor

    def broadcast(self, tensor: Tensor) -> Tensor:
        self._require_whole()
        self._dist.broadcast(tensor, src=0, group=self._group_of(tensor))
        return tensor

    def _group_of(self, tensor: Tensor) -> Any:
        return None if tensor.device.type == "cpu" else self._group

    def _require_whole(self) -> None:
        if not self.is_whole:
            raise PeerError("Another process of the run has ended.")

    # --- networks ---------------------------------------------------------------------------------

    def choose_device(self, name: str) -> str:
        import torch

        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name.startswith("mps"):
            raise ConfigError(
                f"common.device is '{name}', on which only one process can train; use 'cpu'."
            )
        if name != "cuda" or not torch.cuda.is_available():
            return name
        count = torch.cuda.device_count()
        if count == 1 and self.local_size > 1 and "CUDA_VISIBLE_DEVICES" in os.environ:
            return "cuda:0"  # as Slurm does, which shows each process its own GPU
        if self.local_rank >= count:
            raise ConfigError(
                f"{self.local_size} processes were started on this machine, which has {count} "
                f"CUDA devices; start at most {count}, or set common.device to 'cpu'."
            )
        return f"cuda:{self.local_rank}"

    def use(self, device: torch.device, captured: bool = False) -> None:
        import torch

        kinds = set(self.gather(device.type))
        if len(kinds) > 1:
            raise ConfigError(
                f"The processes would train on {' and '.join(sorted(kinds))}; set common.device."
            )
        if device.type != "cuda":
            self.can_capture = False
            return
        owned = self.gather(str(torch.cuda.get_device_properties(device).uuid))
        # NCCL refuses two processes on one GPU; gloo takes the way over the CPU.
        self.can_capture = len(set(owned)) == self.size
        backend = "nccl" if self.can_capture else "gloo"
        if captured:
            # The thread that watches over NCCL must not touch the events of a graph.
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
        self._group = self._dist.new_group(backend=backend, timeout=self._timeout)

    def wrapped(self, network: nn.Module, finds_unused: bool = False) -> nn.Module:
        from torch.nn.parallel import DistributedDataParallel

        with warnings.catch_warnings():
            # Deprecated by an option that versions before torch 2.13 do not have.
            warnings.filterwarnings("ignore", "`broadcast_buffers`")
            wrapper = DistributedDataParallel(
                network,
                process_group=self._group,
                broadcast_buffers=False,
                find_unused_parameters=finds_unused,
            )
        # Of kernels of size 1, whose strides say nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match")
        # A sum instead of the mean, because the losses are already parts of the mean over the
        # whole batch, and the parts may differ.
        wrapper.register_comm_hook(None, lambda _, bucket: self._sum(bucket))
        return wrapper

    def summing(self, wrapper: object, sums: bool) -> AbstractContextManager[None]:
        # A network that is not wrapped sums nothing.
        no_sync = getattr(wrapper, "no_sync", nullcontext)
        return nullcontext() if sums else cast("AbstractContextManager[None]", no_sync())

    def _sum(self, bucket: Any) -> Any:
        work = self._dist.all_reduce(bucket.buffer(), group=self._group, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    def with_synchronized_norms(self, network: nn.Module, place: str) -> nn.Module:
        from torch import nn

        has_batch_norm = any(
            isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules()
        )
        if not has_batch_norm:
            return network
        if self._group is None:
            raise ConfigError(
                f"{place} has batch norm, which several processes can only compute together on "
                "CUDA; use instance norm, one process, or GPUs."
            )
        convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
        return cast("nn.Module", convert(network, self._group))

    # --- the end ----------------------------------------------------------------------------------

    def agreed(self, error: BaseException) -> BaseException:
        self._agreed = error
        return error

    def is_agreed(self, error: BaseException) -> bool:
        return error is self._agreed

    @contextmanager
    def together(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if self.is_agreed(error):
                raise
            cause = self._why(error)
            self._leave(error)
            if cause is None:
                raise
            raise PeerError(cause) from error

    def _why(self, error: BaseException) -> str | None:
        """Why another process ended, if that is the cause of ``error``."""
        found = [part for part in _LOST if part in one_line(error)]
        # The launcher ends the others with a signal if one fails.
        is_signal = isinstance(error, (KeyboardInterrupt, SystemExit))
        if not is_signal and not (isinstance(error, RuntimeError) and found):
            return None
        with suppress(RuntimeError):
            if self._store.check([_LEFT]):
                return str(self._store.get(_LEFT).decode())
        if is_signal:
            return None
        return f"Another process of the run ended, or cannot be reached ({found[0]})."

    def _leave(self, error: BaseException) -> None:
        """Tells the others why this process ends, unless it is because of them."""
        was_whole, self.is_whole = self.is_whole, False
        if self.is_main:
            with suppress(RuntimeError):
                self._store.set(_OF_MAIN, str(error))
        if not was_whole or self._why(error) is not None or isinstance(error, PeerError):
            return
        if isinstance(error, SystemExit) and not error.code:
            return
        kind = "" if isinstance(error, NectarGANError) else f"{type(error).__name__}: "
        with suppress(RuntimeError):
            told = f"Rank {self.rank} ended: {kind}{one_line(error)}"
            self._store.compare_set(_LEFT, "", told)

    def is_told_by_main(self, error: BaseException) -> bool:
        """Whether the main process reports this error, so that this one need not."""
        if isinstance(error, (PeerError, KeyboardInterrupt)) or self.is_agreed(error):
            return True
        if isinstance(error, NectarGANError):
            with suppress(RuntimeError):
                self._store.wait([_OF_MAIN], _PATIENCE)
                return bool(self._store.get(_OF_MAIN).decode() == str(error))
        return False

    def close(self) -> None:
        """Disconnects this process."""
        with suppress(RuntimeError):
            self._dist.destroy_process_group()


@contextmanager
def joined(timeout: timedelta = _TIMEOUT) -> Iterator[World]:
    """A context manager that connects this process with those that torchrun started with it.

    In a process that is not the main one, an error that the main process reports ends in
    SystemExit.

    Args:
        timeout: How long to wait for another process.

    Yields:
        `ALONE` for a single process.

    Raises:
        RunError: The processes cannot be connected.
    """
    if os.environ.get("WORLD_SIZE", "") in ("", "1"):
        yield ALONE
        return
    missing = [name for name in _VARIABLES if not os.environ.get(name, "").isdigit()]
    if missing:
        raise RunError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']!r}, but {missing[0]} is not a number: start "
            "several processes with torchrun."
        )
    world = _Processes(timeout)
    try:
        with world.together():
            yield world
    except BaseException as error:
        if world.is_main or not world.is_told_by_main(error):
            raise
        code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        code = error.code if isinstance(error, SystemExit) else code
        raise SystemExit(code) from None
    finally:
        world.close()
