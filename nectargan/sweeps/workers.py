"""Several processes that share the runs of a sweep.

Each worker is the same command without ``--workers``. A grid point is claimed by the worker that
begins it, and a trial by its study, so workers need not know of each other, and more of them can
run on other machines.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from nectargan.cpu import THREADS, chosen_by_user, usable_cores
from nectargan.errors import NectarGANError, RunError
from nectargan.interrupts import in_own_group
from nectargan.wording import counted

_LOOK_SECONDS, _REST = 1.0, 20
_MOST_RESTARTS = 3
_STOP_SECONDS = 120.0  # a run saves a checkpoint and sends its record when it is interrupted
_MOST = 64
_WORKER = "NECTARGAN_WORKER"


def is_worker() -> bool:
    """Whether this process is a `Worker` of another one, which has checked the runs and reports."""
    return _WORKER in os.environ


def worker_log(folder: Path, number: int) -> Path:
    """The file for the output of a worker. Machines that share the folder have different ones."""
    host = re.sub(r"[^\w\-]", "_", platform.node().partition(".")[0])
    return folder / f"{host}_worker_{number}.log"


def without_options(arguments: Sequence[str], names: Mapping[str, int]) -> list[str]:
    """Removes options from a command line.

    Args:
        arguments: The command line, without the program.
        names: The number of values of each option to remove, by name.
    """
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in names:
            for _ in range(names[argument]):
                next(rest, None)
        elif argument.split("=", 1)[0] not in names:
            kept.append(argument)
    return kept


def environments(wanted: str, device: str) -> list[dict[str, str]]:
    """The environment variables of each worker.

    On CUDA, each worker sees one GPU. On a CPU, the workers share the cores.

    Args:
        wanted: "auto" for one worker per GPU, or one on a CPU; or a number of workers per GPU, or
            in all on a CPU.
        device: ``common.device`` of the runs.

    Raises:
        RunError: If ``wanted`` is neither, or the runs name one of several devices.
    """
    each = 1 if wanted == "auto" else int(wanted) if wanted.isdecimal() else 0
    if not 1 <= each <= _MOST:
        raise RunError(
            f"--workers {wanted} is neither 'auto' nor a whole number from 1 to {_MOST}."
        )
    if device.startswith("cuda:"):
        raise RunError(
            f"common.device is '{device}', but --workers gives each worker a device; use 'cuda'."
        )
    if device != "cpu" and torch.cuda.is_available():
        gpus = [str(i) for i in range(torch.cuda.device_count())]
        if seen := os.environ.get("CUDA_VISIBLE_DEVICES"):
            gpus = [name.strip() for name in seen.split(",")][: len(gpus)]
        return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus for _ in range(each)]
    if chosen_by_user(THREADS) is not None:
        return [{}] * each
    return [{"OMP_NUM_THREADS": str(max(1, usable_cores() // each))}] * each


class Worker:
    """A process that goes through a sweep.

    Args:
        number: Its number, from 1.
        arguments: The command line of ``nectargan-train``.
        variables: Environment variables besides those of this process.
        log: The file that its output is appended to.

    Attributes:
        number: The argument ``number``.
        log: The argument ``log``.
        trouble: Why the worker gave up; empty if it did not.
    """

    def __init__(
        self, number: int, arguments: Sequence[str], variables: Mapping[str, str], log: Path
    ) -> None:
        self.number = number
        self.log = log
        self.trouble = ""
        self._command = [sys.executable, "-m", "nectargan.cli.train", *arguments]
        self._variables = {**variables, "PYTHONUNBUFFERED": "1", _WORKER: str(number)}
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process."""
        self._starts += 1
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._variables},
                **in_own_group(),
            )

    def is_at_work(self, tell: Callable[[str], object]) -> bool:
        """Whether the process runs; it is started again if it died.

        A process that ends by itself has seen every run of the sweep, or has said why it cannot.

        Args:
            tell: Called with a sentence if the process died.
        """
        code = None if self._process is None else self._process.poll()
        if self._process is None or code is None:
            return self._process is not None
        self._process = None
        if code in (0, 1):  # 1: a run failed
            return False
        if code == 2:
            self.trouble = f"Worker {self.number}: {self._last_line()}"
            return False
        died = f"Worker {self.number} died ({_how(code)})"
        if self._starts > _MOST_RESTARTS:
            self.trouble = f"{died} {counted(self._starts, 'time')}, see {self.log}."
            return False
        tell(f"{died} and is started again; its run is resumed.")
        self.start()
        return True

    def interrupt(self) -> None:
        """Asks the process to end after it has saved a checkpoint."""
        if self._process is not None and self._process.poll() is None:
            # Not SIGINT, which processes that were started in the background ignore.
            self._process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))

    def end(self, seconds: float) -> None:
        """Waits until the process has ended, and kills it after some seconds."""
        if self._process is None:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else "no output"


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def supervise(
    workers: Sequence[Worker], look: Callable[[], object], tell: Callable[[str], object]
) -> list[str]:
    """Runs workers until each has ended.

    Args:
        workers: The workers.
        look: Called about once a second. If it raises a `NectarGANError`, this is told once.
        tell: Called with a sentence when a worker died.

    Returns:
        Why workers gave up, one sentence each.

    Raises:
        KeyboardInterrupt: Or SystemExit, on a signal, after all workers were interrupted and have
            ended.
    """
    told = ""
    try:
        for worker in workers:
            worker.start()
        # Every worker is looked at, so that each one that died is started again.
        while sum(worker.is_at_work(tell) for worker in workers):
            began = time.monotonic()
            try:
                look()
            except NectarGANError as error:
                # Such as a database that does not answer; the workers can go on.
                if str(error) != told:
                    told = str(error)
                    tell(told)
            # Looking reads the configs of all runs, which must not cost what the workers need.
            time.sleep(max(_LOOK_SECONDS, _REST * (time.monotonic() - began)))
    finally:
        for worker in workers:
            worker.interrupt()
        try:
            for worker in workers:
                worker.end(_STOP_SECONDS)
        finally:  # a second signal does not wait
            for worker in workers:
                worker.end(0.0)
    look()
    return [worker.trouble for worker in workers if worker.trouble]
