"""Connections that start at this machine: to where forwardings lead, to an agent, to a display.

Whoever calls at a forwarding may have named the place, so that anything may stand in a name.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Any

from sshoq.forwarding.datagrams import UdpEnd
from sshoq.forwarding.forwarder import SocketEnd, set_no_delay

_LITERAL = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV

Addresses = Sequence[tuple[int, tuple[Any, ...]]]


def literal_addresses(host: str, port: int) -> Addresses:
    """gaierror for a name, or for what cannot be one: whoever calls at a forwarding may send it.
    Asks nobody.
    """
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, _LITERAL)
    except ValueError:  # too long for a label, or with a zero byte
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
    return [(family, address) for family, _, _, _, address in found]


async def look_up(host: str, port: int) -> Addresses:
    """OSError when there is no such host; never empty."""
    with contextlib.suppress(socket.gaierror):
        return literal_addresses(host, port)
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except ValueError:
        raise OSError(0, "Name or service not known") from None
    return [(family, address) for family, _, _, _, address in found]


async def dial(host: str, port: int) -> SocketEnd:
    """The first address that can be connected to. OSError of the last one."""
    failure: OSError = OSError(0, "no address")
    for family, address in await look_up(host, port):
        try:
            return await _connect(family, address)
        except OSError as error:
            failure = error
    raise failure


async def dial_udp(host: str, port: int) -> UdpEnd:
    [(family, address), *_] = await look_up(host, port)
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    end = socket.socket(family, kind)
    try:
        end.connect(address)
    except BaseException:
        end.close()
        raise
    return UdpEnd(end)


async def dial_path(path: str) -> SocketEnd:
    return await _connect(socket.AF_UNIX, os.fsencode(path))


async def _connect(family: int, address: Any) -> SocketEnd:
    end = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(end, address)
    except BaseException:
        end.close()
        raise
    set_no_delay(end)
    return SocketEnd(end)
