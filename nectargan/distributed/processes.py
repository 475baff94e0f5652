"""`Processes`: a `World` of several processes, connected by torch.distributed."""

from __future__ import annotations

import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nectargan.addresses import address_towards, interface_towards
from nectargan.distributed.world import World
from nectargan.errors import ConfigError, NectarGANError, PeerError, RunError
from nectargan.interrupts import default_signals, end_by_signal, signal_of
from nectargan.wording import one_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# Keys of the store: why the first process ended (a sentence or the number of a signal), the error
# of the main one, the address of another machine than its own, and how many have ended.
_LEFT, _OF_MAIN, _OTHER_MACHINE, _CLOSED = "left", "of main", "other machine", "closed"
_PATIENCE = timedelta(seconds=5)
_LOOK_SECONDS, _MOST_SECONDS = 0.05, 1.0
# Parts of the messages of gloo, NCCL and the store about a lost connection.
_LOST = ("Connection closed", "Connection reset", "Broken pipe", "Timed out", "timed out", "NCCL")


class Processes(World):
    """Several processes, connected by torch.distributed."""

    def __init__(self, timeout: timedelta) -> None:
        from torch import distributed

        dist: Any = distributed  # its stubs do not export all that its documentation names
        if not dist.is_available():
            raise RunError("This torch was built without torch.distributed; start one process.")
        self._timeout = timeout
        self.rank, self.size, self.local_rank, self.local_size = (
            int(os.environ[name]) for name in VARIABLES
        )
        self.counts = (1,) * self.size
        try:
            with default_signals():
                store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
                name = _agreed_name(store, self.rank, self.size, timeout)
                self._store = dist.PrefixStore(f"nectargan {name}", store)
                self._choose_interface()
                dist.init_process_group(
                    "gloo",
                    store=dist.PrefixStore(f"gloo {name}", store),
                    rank=self.rank,
                    world_size=self.size,
                    timeout=timeout,
                )
        except (RuntimeError, ValueError) as error:
            raise RunError(
                f"Rank {self.rank} cannot connect to the other {self.size - 1} processes: "
                f"{one_line(error)[:300]}."
            ) from None
        self._dist = dist
        self._group: Any = None  # of the devices; None for the CPU
        self._agreed: BaseException | None = None
        self._made = 0  # results of `from_main`

    def _choose_interface(self) -> None:
        """Chooses the network interface of gloo on several machines.

        gloo would take that of the machine's name. Where this name means 127.0.1.1, as on Debian
        and Ubuntu, no other machine could connect.
        """
        if self.local_size == self.size or "GLOO_SOCKET_IFNAME" in os.environ:
            return
        host = os.environ["MASTER_ADDR"]
        if self.rank == self.size - 1:
            self._store.set(_OTHER_MACHINE, address_towards(host) or "")
        if self.rank < self.local_size:
            host = self._store.get(_OTHER_MACHINE).decode()
        if (name := interface_towards(host)) is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = name

    # --- what the processes tell each other -------------------------------------------------------

    def from_main(self, make: Callable[[], T]) -> T:
        self._require_whole()
        with self.together():
            box: list[Any] = [make() if self.is_main else None]
            self._wait_for_main()
            self._dist.broadcast_object_list(box)
            return cast("T", box[0])

    def _wait_for_main(self) -> None:
        """Waits until the main process gets here as well, however long it takes: reading a large
        data set takes longer than any timeout. A signal ends the wait."""
        self._made += 1
        key = f"made {self._made}"
        if self.is_main:
            self._store.set(key, "")
        pause = _LOOK_SECONDS
        # If the main one has left, the broadcast that follows says so.
        while not self._store.check([key]) and not self._store.check([_OF_MAIN]):
            time.sleep(pause)
            pause = min(2 * pause, _MOST_SECONDS)

    def gather(self, value: T) -> list[T]:
        self._require_whole()
        values: list[Any] = [None] * self.size
        self._dist.all_gather_object(values, value)
        return values

    def gather_numbers(self, numbers: Sequence[int]) -> list[list[int]]:
        import torch

        self._require_whole()
        own = torch.tensor(numbers, dtype=torch.int64)
        found = [torch.empty_like(own) for _ in range(self.size)]
        self._dist.all_gather(found, own)
        return [each.tolist() for each in found]

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
            cause = self._cause(error)
            self._leave(error, is_first=cause is None)
            if cause is None:
                raise
            raise cause from error

    def _cause(self, error: BaseException) -> BaseException | None:
        """What another process ended with, if ``error`` follows from it."""
        found = [part for part in _LOST if part in one_line(error)]
        # The launcher ends the others with a signal if one fails.
        is_signal = isinstance(error, (KeyboardInterrupt, SystemExit))
        if not is_signal and not (isinstance(error, RuntimeError) and found):
            return None
        with suppress(RuntimeError):
            if self._store.check([_LEFT]):
                return _end_of_other(self._store.get(_LEFT).decode())
        # NCCL also fails by itself, and its message says how.
        if is_signal or "NCCL" in found:
            return None
        return PeerError(f"Another process of the run ended, or cannot be reached ({found[0]}).")

    def _leave(self, error: BaseException, is_first: bool) -> None:
        """Tells the others why this process ends, unless it is because of them."""
        was_whole, self.is_whole = self.is_whole, False
        if self.is_main:
            with suppress(RuntimeError):
                self._store.set(_OF_MAIN, str(error))
        if not (was_whole and is_first) or isinstance(error, PeerError):
            return
        if isinstance(error, SystemExit) and not error.code:
            return
        kind = "" if isinstance(error, NectarGANError) else f"{type(error).__name__}: "
        told = f"Rank {self.rank} ended: {kind}{one_line(error)}".rstrip(": ")
        with suppress(RuntimeError):
            self._store.compare_set(_LEFT, "", str(signal_of(error) or told))

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
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return
        # The store ends with the main process. The others may still look there why it ended.
        deadline = time.monotonic() + _PATIENCE.total_seconds()
        with suppress(RuntimeError):
            closed = self._store.add(_CLOSED, 1)
            while self.is_main and closed < self.size and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
                closed = self._store.add(_CLOSED, 0)


def _end_of_other(told: str) -> BaseException:
    """What a process raises that ends because of another one, from what that one has left."""
    return end_by_signal(int(told)) if told.isdigit() else PeerError(told)


def _agreed_name(store: Any, rank: int, size: int, timeout: timedelta) -> str:
    """A name that all processes of this start agree on, and that no earlier start has.

    torchrun keeps the store when it starts the processes again, with the addresses of those that
    are gone. How often it did so says nothing: a machine does not count the restarts that another
    one caused.

    Raises:
        RuntimeError: Not all processes arrive in time.
    """
    name = uuid.uuid4().hex
    if rank:
        store.set(f"here {rank}", name)
        # Only the main process of this start can answer to this name.
        store.wait([f"answer to {name}"], timeout)
        given: str = store.get(f"answer to {name}").decode()
        store.add(f"{given} known", 1)
        return given
    deadline = time.monotonic() + timeout.total_seconds()
    while (known := store.add(f"{name} known", 0)) < size - 1:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{size - 1 - known} of them did not arrive in time")
        for other in range(1, size):
            # Perhaps that of an earlier start, as long as the new process has not arrived.
            if store.check([f"here {other}"]):
                store.set(f"answer to {store.get(f'here {other}').decode()}", name)
        time.sleep(_LOOK_SECONDS)
    return name
