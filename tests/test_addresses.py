"""The addresses of this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import psutil
import pytest

from nectargan.addresses import address_towards, interface_towards, is_own
from tests.network import two_machines


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.1.1", "localhost", "no.such.host.invalid", ""]
)
def test_what_is_reached_without_a_network_has_no_address(host: str) -> None:
    assert address_towards(host) is None
    assert interface_towards(host) is None
    assert not is_own(host)


def own_addresses() -> Iterator[tuple[str, str]]:
    """The name of each interface with an IPv4 address that is up, and the address."""
    states = psutil.net_if_stats()
    for name, found in psutil.net_if_addrs().items():
        for each in found:
            if each.family == socket.AF_INET and states[name].isup and name != "lo":
                yield name, each.address


def test_an_own_address_is_reached_by_itself() -> None:
    for name, address in own_addresses():
        assert address_towards(address) == address
        assert interface_towards(address) == name
        assert is_own(address)


LOOK = """
from nectargan.addresses import address_towards, interface_towards, is_own
print(address_towards("{host}"), interface_towards("{host}"), is_own("{host}"))
"""


def test_another_machine_is_reached_by_the_interface_between() -> None:
    with two_machines() as (first, second):
        for machine, other in ((first, second), (second, first)):
            found = machine.python(LOOK.format(host=other.address))
            assert found == f"{machine.address} {machine.interface} False\n"
            found = machine.python(LOOK.format(host=machine.address))
            assert found == f"{machine.address} {machine.interface} True\n"
