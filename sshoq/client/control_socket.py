"""The socket at which a master waits for clients: made so that nobody else can ever connect to it,
and so that no other master loses its place.

A plain socket, without an event loop.
"""

import contextlib
import os
import socket
import struct

from sshoq.client.log import Failure
from sshoq.listening import remove_socket

BACKLOG = 64

_LETTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class PlaceTaken(Exception):
    """Something is there already, perhaps another master."""


class ControlSocket:
    """Listens at `path` until it is removed."""

    def __init__(self, path: str) -> None:
        """PlaceTaken; Failure where no socket can be."""
        self.path = path
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self.socket = socket.socket(socket.AF_UNIX, kind)
        try:
            self._take_place()
            status = os.lstat(path)
        except BaseException:
            self.socket.close()
            raise
        self._identity = (status.st_dev, status.st_ino)

    def _take_place(self) -> None:
        """Under another name first: when the name is there, somebody listens, and with link() the
        first one wins, where rename() would let the last."""
        temporary = f"{self.path}.{_random_name()}"
        self._bind(temporary)
        try:
            self.socket.listen(BACKLOG)
            os.link(temporary, self.path)
        except FileExistsError:
            raise PlaceTaken(self.path) from None
        except OSError as error:
            way = f"{temporary} => {self.path}"
            raise Failure(f"link mux listener {way}: {error.strerror}") from None
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _bind(self, path: str) -> None:
        before = os.umask(0o177)
        try:
            self.socket.bind(os.fsencode(path))
        except OSError as error:
            if error.strerror is None:
                reason = f'path "{path}" too long for Unix domain socket'
            else:
                reason = f"cannot bind to path {path}: {error.strerror}"
            raise Failure(f"unix_listener: {reason}") from None
        finally:
            os.umask(before)

    def remove(self) -> None:
        """Unless the name means something else by now. Whoever is connected stays so."""
        remove_socket(self.path, self._identity)


def _random_name() -> str:
    return bytes(_LETTERS[byte % len(_LETTERS)] for byte in os.urandom(16)).decode()


def is_ours(connection: socket.socket) -> bool:
    """Whether root or our own user calls."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", packed)
    return uid in (0, os.getuid())
