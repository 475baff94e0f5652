"""The addresses of this machine, and through which of them it reaches another one."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import ip_address

# Any port will do: nothing is sent.
_PORT = 9


def address_towards(host: str) -> str | None:
    """The address of this machine from which it reaches a host; sends nothing.

    Args:
        host: Name or address.

    Returns:
        The address, or ``None`` if the host is unknown, cannot be reached, or is reached without
        a network, as by the name of this machine on many systems.
    """
    for family, target in _resolved(host):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)  # looks for the route only
            found = str(probe.getsockname()[0])
            return None if ip_address(found.partition("%")[0]).is_loopback else found
    return None


def is_own(host: str) -> bool:
    """Whether a host is this machine, by an address that others can reach."""
    return address_towards(host) in {target[0] for _, target in _resolved(host)}


def interface_towards(host: str) -> str | None:
    """The name of the network interface through which this machine reaches a host, such as
    ``eth0``; ``None`` as for `address_towards`."""
    import psutil

    address = address_towards(host)
    for name, found in psutil.net_if_addrs().items():
        if address is not None and address in {each.address for each in found}:
            return str(name)
    return None


def _resolved(host: str) -> list[tuple[socket.AddressFamily, tuple[object, ...]]]:
    with suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, _PORT, type=socket.SOCK_DGRAM)
        return [(family, target) for family, _, _, _, target in found]
    return []
