"""``nectargan-train --nproc``: starts the processes of a run with torchrun's elastic launch."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import signal
import sys
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from nectargan.addresses import address_towards, is_own
from nectargan.cli.common import WholeNumber, typed_arguments
from nectargan.cli.options import option, with_options
from nectargan.cpu import usable_cores
from nectargan.errors import RunError
from nectargan.interrupts import STOPS
from nectargan.output import say
from nectargan.wording import counted, one_line

_Command = TypeVar("_Command", bound=Callable[..., Any])

_GROUP = "Several processes"
_OPTIONS = (
    option(
        "--nproc",
        group=_GROUP,
        metavar="auto|N",
        help="Train one run in N processes, one per GPU; auto: one for each GPU of this machine.",
    ),
    option(
        "--nnodes",
        group=_GROUP,
        metavar="N|MIN:MAX",
        help="Number of machines; each is given the same command.  [default: 1]",
    ),
    option(
        "--rdzv-endpoint",
        group=_GROUP,
        metavar="HOST[:PORT]",
        help="With --nnodes: the machine, one of them, where they meet.",
    ),
    option(
        "--max-restarts",
        group=_GROUP,
        type=WholeNumber(0, 10**6),
        metavar="N",
        help="How often to start all processes again after one has died; needs --resume auto.",
    ),
)
_VALUES = {"--nproc": 1, "--nnodes": 1, "--rdzv-endpoint": 1, "--max-restarts": 1}
# How long a process may take to save a checkpoint and send its record before it is killed.
_STOP_SECONDS = "120"
_NODES = re.compile(r"([1-9]\d*)(?::([1-9]\d*))?")
# An IPv6 address stands in brackets.
_ENDPOINT = re.compile(r"(\[[\da-fA-F:.]+\]|[^\s:/\[\]]+)(?::(\d{1,5}))?")
_LAST_PORT = 65_535


def launch_options(command: _Command) -> _Command:
    """Adds the options of `LaunchOptions` to a command."""
    return with_options(command, _OPTIONS)


class LaunchOptions(NamedTuple):
    """The values of the options about several processes; ``None`` for those not given."""

    nproc: str | None
    nnodes: str | None
    rdzv_endpoint: str | None
    max_restarts: int | None

    def check(self, is_sweep: bool, resume: str | None) -> None:
        """Raises `RunError` for options that cannot be, or contradict each other."""
        given = [name for name in self._fields if getattr(self, name) is not None]
        if not given:
            return
        if self.nproc is None:
            raise RunError(f"--{given[0].replace('_', '-')} needs --nproc.")
        if is_sweep:
            raise RunError(
                "--nproc and --sweep cannot be combined: a sweep trains each of its runs in one "
                "process, and --workers trains several runs at once."
            )
        if os.environ.get("WORLD_SIZE", "") not in ("", "1"):
            raise RunError("--nproc starts processes itself; leave it out under torchrun or srun.")
        if self.nproc != "auto" and not (self.nproc.isdecimal() and int(self.nproc) > 0):
            raise RunError(f"--nproc {self.nproc} is neither 'auto' nor a whole number above 0.")
        low, high = self.nodes
        if low > high:
            raise RunError(f"--nnodes {self.nnodes} must go from the lower to the higher number.")
        if high > 1 and self.rdzv_endpoint is None:
            raise RunError(
                f"--nnodes {self.nnodes} needs --rdzv-endpoint HOST:PORT, where all meet."
            )
        if self.rdzv_endpoint is not None:
            found = _ENDPOINT.fullmatch(self.rdzv_endpoint)
            if found is None or not 1 <= int(found[2] or 1) <= _LAST_PORT:
                raise RunError(
                    f"--rdzv-endpoint {self.rdzv_endpoint} is not of the form HOST:PORT, with a "
                    f"port from 1 to {_LAST_PORT}."
                )
        if low < high and resume is None:
            raise RunError(
                f"--nnodes {self.nnodes} needs --resume auto; without it, a machine that joins "
                "later would begin a new run."
            )
        if self.max_restarts and resume is None:
            raise RunError(
                "--max-restarts needs --resume auto; without it, a restart would begin a new run."
            )

    @property
    def nodes(self) -> tuple[int, int]:
        """The lowest and the highest number of machines; raises `RunError`."""
        found = _NODES.fullmatch(self.nnodes or "1")
        if found is None:
            raise RunError(f"--nnodes {self.nnodes} is neither a whole number nor MIN:MAX.")
        return int(found[1]), int(found[2] or found[1])

    def processes(self, device: str) -> int:
        """The number of processes on this machine.

        Args:
            device: ``common.device`` of the run.

        Raises:
            RunError: There are not as many GPUs or cores, or the device is one of several.
        """
        # torch would print the stack of each attempt to connect.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
        import torch

        if device.startswith("cuda:"):
            raise RunError(
                f"common.device is '{device}', but --nproc gives each process a device; use 'cuda'."
            )
        is_cuda = device in ("auto", "cuda") and torch.cuda.is_available()
        count = torch.cuda.device_count() if is_cuda else usable_cores()
        if self.nproc == "auto":
            return count if is_cuda else 1
        wanted = int(self.nproc or 1)
        if wanted > count:
            found = counted(count, "GPU" if is_cuda else "core")
            raise RunError(f"--nproc {wanted} is too many: this machine has {found} to train on.")
        return wanted


def launch(options: LaunchOptions, processes: int) -> None:
    """Runs the typed command in several processes, and returns when they have ended.

    Args:
        options: The options.
        processes: Number of processes on this machine.

    Raises:
        RunError: The machines do not find each other.
        SystemExit: A process failed, with its exit code, or a signal ended all of them.
    """
    from nectargan.sweeps.workers import without_options

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _STOP_SECONDS)
    low, high = options.nodes
    if high > 1:
        # The launcher would keep its store, whose address a machine that comes later is not told
        # (https://github.com/pytorch/pytorch/issues/135712).
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    from torch.distributed import DistStoreError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    # The processes report what there is to say.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    arguments = ["-m", "nectargan.train", *without_options(typed_arguments(), _VALUES)]
    try:
        elastic_launch(_launch_config(options, processes), sys.executable)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            say(f"Error: The process of rank {rank} was ended by {name}.", err=True)
            raise SystemExit(128 - failure.exitcode) from None
        raise SystemExit(failure.exitcode) from None
    except SignalException as stop:
        raise SystemExit(128 + stop.sigval) from None
    except (RendezvousError, DistStoreError) as error:
        machines = counted(high, "machine") if low == high else f"{low} to {high} machines"
        meets = options.rdzv_endpoint
        place = f" at {meets}, or the one there has ended" if meets else ""
        reason = one_line(error.__cause__ or error)[:200].rstrip(".")
        raise RunError(f"The processes of {machines} cannot meet{place}: {reason}.") from None


def _launch_config(options: LaunchOptions, processes: int) -> Any:
    """The options as torchrun's launcher takes them."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    low, high = options.nodes
    meets = options.rdzv_endpoint
    place, address = _meeting_place(meets)
    fields = {field.name for field in dataclasses.fields(LaunchConfig)}
    handled = [each.name for each in map(signal.Signals, STOPS) if _is_handled(each)]
    # A run that was started with nohup survives its terminal; torch 2.8 handles all signals.
    signals: dict[str, Any] = {"signals_to_handle": ",".join(handled)}
    return LaunchConfig(
        min_nodes=low,
        max_nodes=high,
        nproc_per_node=processes,
        run_id="nectargan" if meets else uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=place,
        local_addr=address,
        max_restarts=options.max_restarts or 0,
        # By default it leaves an empty folder behind.
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        **{name: value for name, value in signals.items() if name in fields},
    )


def _meeting_place(endpoint: str | None) -> tuple[str, str | None]:
    """The endpoint as torch needs it, and the address by which others reach this machine.

    torch knows this machine only by its name, which on Debian and Ubuntu means 127.0.1.1. So it
    does not recognise an address of this machine, and tells the others a name they may not know.

    Args:
        endpoint: HOST, HOST:PORT or ``None``, as typed.

    Returns:
        Both; ``None`` for an address that torch shall find.
    """
    found = _ENDPOINT.fullmatch(endpoint or "")
    if endpoint is None or found is None:
        return "localhost:0", None
    host = found[1].strip("[]")
    if is_own(host):
        endpoint = "localhost" + endpoint.removeprefix(found[1])
    return endpoint, address_towards(host)


def _is_handled(number: signal.Signals) -> bool:
    return signal.getsignal(number) != signal.SIG_IGN
