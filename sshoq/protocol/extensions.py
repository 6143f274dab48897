"""What our programs can say to each other beyond what Go programs know, and how they announce it.

Each side puts one setting of its own into its HTTP/3 SETTINGS; each bit of the value is an
extension. A bit counts when both sides set it. Go peers send no such setting and skip ours, as RFC
9114 7.2.4.1 demands.
"""

from collections.abc import Mapping
from enum import IntFlag

SETTING = 0x13534851
"""The identifier: unregistered, a four-byte varint, not of the reserved form 0x1f * N + 0x21."""


class Extension(IntFlag):
    """Bits of the setting's value. A bit once given a meaning keeps it."""

    EARLY = 1 << 0
    """Channels opened ahead of the 200 are kept until the login is decided."""
    EOF = 1 << 1
    """Message 96 ends one direction's data of a session; FIN may follow exit-status."""
    REPLY = 1 << 2
    """Messages 99 and 100 answer requests that want a reply."""
    ENV = 1 << 3
    """Channel request `env`."""
    SUBSYSTEM = 1 << 4
    """Channel request `subsystem`."""
    FORWARD = 1 << 5
    """Forwarding by host name, with port 0, and of Unix sockets; listeners that can be ended."""
    AGENT = 1 << 6
    """Channel request `auth-agent-req@openssh.com`."""
    X11 = 1 << 7
    """Channel request `x11-req`, and the channels that follow from it."""
    BANNER = 1 << 8
    """The login banner comes as DATA behind the response, which says how much."""
    SIGNAL = 1 << 9
    """`signal` goes to the process group and is safe to send; channel request `break`."""
    CERTIFICATE = 1 << 10
    """A token may carry the certificate of its key."""
    SECURITY_KEY = 1 << 11
    """A token may be signed by a key on a FIDO token."""
    NAMED_KEY = 1 << 12
    """A token may name its key."""
    CHAFF = 1 << 13
    """Message 101 on a session means nothing, and is answered if it says so."""
    FILES = 1 << 14
    """File transfer: a request that puts one file in the place of another."""
    EOW = 1 << 15
    """Channel request `eow@openssh.com`."""
    HOST_KEYS = 1 << 16
    """The server tells and proves all of its host keys to a client that asks."""
    KEYBOARD_INTERACTIVE = 1 << 17
    """A 401 may carry questions, and the next request's `authorization` the answers."""


OURS = (
    Extension.EARLY | Extension.EOF | Extension.REPLY | Extension.ENV | Extension.SUBSYSTEM
    | Extension.FORWARD | Extension.AGENT | Extension.X11 | Extension.BANNER | Extension.SIGNAL
    | Extension.CERTIFICATE | Extension.SECURITY_KEY | Extension.NAMED_KEY
    | Extension.CHAFF | Extension.FILES | Extension.EOW | Extension.HOST_KEYS
    | Extension.KEYBOARD_INTERACTIVE
)
"""What this version implements."""

NONE = Extension(0)
_ALL = sum(Extension)


def announced_in(settings: Mapping[int, int]) -> Extension | None:
    """The extensions a peer announces, unknown bits left out; None without the setting (Go)."""
    value = settings.get(SETTING)
    return None if value is None else Extension(value & _ALL)
