"""Cut a Python process off from every network but its own machine.

Tests and ``make refresh`` put this folder on ``PYTHONPATH``, so that every kernel they start loads
this file first. An audit hook cannot be removed, and what this one decides by is bound when it is
made: nothing that goes through the standard library's sockets gets out by accident or by patching
a name, look-ups of names included.

It is a guard against mistakes and no jail. Not held back are a Python that ignores ``PYTHONPATH``
or this file (``python -I``, ``-E``, ``-S``), programs that are not Python (curl), and libraries
with sockets of their own in C or C++ (pyzmq, torch's TCPStore, whatever ctypes calls). Lessons
start none of these, apart from the kernel's own pyzmq, which listens on this machine only.
"""

import ipaddress
import socket
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

LOCAL_NAMES = frozenset({"localhost", "ip6-localhost", socket.gethostname(), ""})

# Which argument of an event holds the host, or an address that begins with it.
_WHERE = {
    "socket.connect": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyaddr": 0,
    "socket.gethostbyname": 0,  # also gethostbyname_ex
    "socket.getnameinfo": 0,
    "socket.sendmsg": 1,
    "socket.sendto": 1,
}


def is_local(
    host: object,
    names: frozenset[str] = LOCAL_NAMES,
    read: Callable = ipaddress.ip_address,
) -> bool:
    """Return True for loopback and unspecified addresses and for the names of this machine."""
    if host is None:
        return True
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name in names:
        return True
    try:
        address = read(name.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refuse_outside(
    event: str,
    arguments: tuple,
    where: Mapping[str, int] = MappingProxyType(dict(_WHERE)),
    allowed: Callable[[object], bool] = is_local,
) -> None:
    """Raise ConnectionRefusedError when Python code reaches for another machine."""
    position = where.get(event)
    if position is None:
        return
    host = arguments[position]
    if isinstance(host, tuple):
        host = host[0]
    elif position == 1:  # the path of a Unix socket, or no address
        return
    if not allowed(host):
        raise ConnectionRefusedError(f"lessons run without a network: {host} was refused")


sys.addaudithook(refuse_outside)
