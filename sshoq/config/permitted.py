"""Places that may be connected to or listened on: PermitOpen, PermitListen, PermitRemoteOpen.

Names are compared as they are written, as OpenSSH does: what they stand for may change between the
check and the use.
"""

from collections.abc import Iterable, Sequence

from sshoq.config.lexer import parse_port_number
from sshoq.named_tuple import NamedTuple

ANY_HOST = "*"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Place(NamedTuple):
    """A host, or any for ``*``, and a port, or any for 0."""

    host: str
    port: int


def parse_places(words: Sequence[str]) -> list[Place] | None:
    """The words of one of those keywords, checked before; None: anything is permitted."""
    if tuple(words) in ((), ("any",)):
        return None
    if tuple(words) == ("none",):
        return []
    return [_place(word) for word in words]


def _place(word: str) -> Place:
    host, _, port = word.rpartition(":")
    if host.startswith("["):
        host = host[1:-1]
    return Place(host, 0 if port == "*" else parse_port_number(port))


def may_open(places: Iterable[tuple[str, int]] | None, host: str, port: int) -> bool:
    return places is None or any(
        place_host in (ANY_HOST, host) and place_port in (0, port)
        for place_host, place_port in places
    )


def may_listen(places: Iterable[tuple[str, int]] | None, host: str, port: int) -> bool:
    """Loopback is one place, however it is written."""
    return places is None or any(
        (place_host in (ANY_HOST, host) or (place_host in LOOPBACK and host in LOOPBACK))
        and place_port in (0, port)
        for place_host, place_port in places
    )
