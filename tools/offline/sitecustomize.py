"""Cut a Python process off from every network but its own machine.

Tests and ``make refresh`` put this folder on ``PYTHONPATH``, so that every kernel they start loads
this file first. An audit hook cannot be removed or patched away: no Python code gets out through
the standard library's sockets. Programs that are not Python are not held back; lessons start none.
"""

import ipaddress
import socket
import sys

LOCAL_NAMES = {"localhost", "ip6-localhost", socket.gethostname(), ""}


def is_local(host: object) -> bool:
    """Return True for loopback and unspecified addresses and for the names of this machine."""
    if host is None:
        return True
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name in LOCAL_NAMES:
        return True
    try:
        address = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refuse_outside(event: str, arguments: tuple) -> None:
    """Raise ConnectionRefusedError when Python code reaches for another machine."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if not isinstance(address, tuple):  # a Unix socket, or none given
            return
        host = address[0]
    else:
        return
    if not is_local(host):
        raise ConnectionRefusedError(f"lessons run without a network: {host} was refused")


sys.addaudithook(refuse_outside)
