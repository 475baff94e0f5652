"""Two machines that are connected by a cable: network namespaces of Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.distributed.launching import ROOT, environment
from tests.processes import PATIENCE

_PREFIX = "10.77.0."


class Machine(NamedTuple):
    """A network namespace with a host name of its own.

    Attributes:
        number: 1 or 2.
        hosts: Its ``/etc/hosts``: its own name means 127.0.1.1, as on Debian and Ubuntu.
    """

    number: int
    hosts: Path

    @property
    def name(self) -> str:
        return f"nectargan-{os.getpid()}-{self.number}"

    @property
    def interface(self) -> str:
        return f"cable{self.number}"

    @property
    def address(self) -> str:
        return f"{_PREFIX}{self.number}"

    def start(
        self, command: Sequence[object], said: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Starts a command on this machine; its output goes to a file."""
        script = f'hostname {self.name}; mount --bind {self.hosts} /etc/hosts; exec "$@"'
        inside = ["ip", "netns", "exec", self.name, "unshare", "-u", "sh", "-c", script, "sh"]
        with said.open("wb") as file:
            return subprocess.Popen(
                [*inside, *map(str, command)], env=environment, stdout=file, stderr=file, cwd=ROOT
            )

    def python(self, code: str) -> str:
        """What a piece of Python prints on this machine."""
        said = self.hosts.with_name(f"said_{self.number}")
        process = self.start([sys.executable, "-c", code], said, environment())
        try:
            assert process.wait(PATIENCE) == 0, said.read_text()
        finally:
            process.kill()
            process.wait()
        return said.read_text()


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Makes two machines that know each other by their addresses only.

    Skips the test where the user may not make network namespaces.
    """
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs Linux, root and iproute2")
    with tempfile.TemporaryDirectory() as folder:
        machines = tuple(Machine(number, Path(folder, f"hosts_{number}")) for number in (1, 2))
        first, second = machines
        try:
            for machine in machines:
                machine.hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 {machine.name}\n")
                if _ip("netns", "add", machine.name) != 0:
                    pytest.skip("network namespaces are not permitted")
            cable = ["type", "veth", "peer", "name", second.interface, "netns", second.name]
            _must("link", "add", first.interface, "netns", first.name, *cable)
            for machine in machines:
                inside = ("-n", machine.name)
                place = f"{machine.address}/24"
                _must(*inside, "address", "add", place, "dev", machine.interface)
                _must(*inside, "link", "set", machine.interface, "up")
                _must(*inside, "link", "set", "lo", "up")
            yield first, second
        finally:
            for machine in machines:
                _ip("netns", "delete", machine.name)


def _ip(*words: str) -> int:
    return subprocess.run(["ip", *words], capture_output=True, timeout=60).returncode


def _must(*words: str) -> None:
    assert _ip(*words) == 0, words
