"""The socket between a client and the master whose connection it shares, as the client sees it.

Blocking, without an event loop; see mux_client.py for what may be imported here.
"""

import _signal as signal  # type: ignore[import-not-found]  # the C halves: see wire.py
import _socket
import os
import select
import stat
import sys

from sshoq.client.log import Failure, Log
from sshoq.client.mux_messages import VERSION, Hello, MuxError, PacketState, encode_packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sshoq.config.options import Options
    from sshoq.wire import Message

MAX_PATH = 108
"""sun_path with its NUL, on Linux."""


def connect(path: str, options: "Options", log: Log, *, must: bool) -> "_socket.socket | None":
    address = os.fsencode(path)
    if len(address) >= MAX_PATH:
        raise Failure(f"ControlPath too long ('{path}' >= {MAX_PATH} bytes)")
    log.debug(f"auto-mux: Trying existing master at '{path}'")
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(address)
    except OSError as error:
        sock.close()
        _complain_of_connect(path, error, options, log, must=must)
        return None
    if not _is_ours(sock):
        sock.close()
        complaint = f"Control socket {path} is another user's"
        if must:
            raise Failure(complaint)
        log.error(complaint)
        return None
    return sock


def _is_ours(sock: "_socket.socket") -> bool:
    """Whether root or our own user listens: the master gets our terminal, and says what to type."""
    credentials = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], sys.byteorder) in (0, os.getuid())


def _complain_of_connect(
    path: str, error: OSError, options: "Options", log: Log, *, must: bool
) -> None:
    """A socket that nobody listens on is in the way of a new master, and no use to anybody. ssh
    takes a file that is no socket for one, and removes it."""
    complaint = f"Control socket connect({path}): {error.strerror}"
    if must:
        raise Failure(complaint)
    if isinstance(error, FileNotFoundError):
        log.debug(f'Control socket "{path}" does not exist')
    elif (
        isinstance(error, ConnectionRefusedError)
        and options.control_master != "no"
        and _is_socket(path)
    ):
        log.debug(f"Stale control socket {path}, unlinking")
        try:
            os.unlink(path)
        except OSError:
            return
    else:
        log.error(complaint)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


class MasterLink:
    """Messages over the socket, one at a time; nothing is ever read ahead."""

    def __init__(self, sock: "_socket.socket") -> None:
        self._socket = sock
        self._packets = PacketState()
        self.signals: Signals | None = None
        """Obeyed while an answer is awaited."""

    def greet(self, timeout: int | None) -> Hello:
        """What the master announces. ConnectTimeout is for this alone."""
        self._socket.settimeout(timeout or None)
        self.send(Hello())
        answer = self.receive()
        self._socket.settimeout(None)
        if not isinstance(answer, Hello):
            raise MuxError("no greeting")
        if answer.version != VERSION:
            raise MuxError(f"Unsupported multiplexing protocol version {answer.version}")
        return answer

    def send(self, message: "Message", descriptors: "Iterable[int]" = ()) -> None:
        """The descriptors follow one by one, each with a byte that is there for it alone."""
        self._socket.sendall(encode_packet(message))
        for fd in descriptors:
            right = fd.to_bytes(4, sys.byteorder)
            self._socket.sendmsg([b"\0"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, right)])

    def receive(self) -> "Message | None":
        """The next message; None when the master has closed."""
        while True:
            if self.signals is not None:
                self.signals.wait_for(self._socket.fileno())
            try:
                data = self._socket.recv(self._packets.wanted)
            except ConnectionResetError:
                return None
            if not data:
                return None
            message = self._packets.receive(data)
            if message is not None:
                return message


class Interrupted(Exception):
    """A signal says that it is enough."""


class Signals:
    """Signals within the block: the ending ones raise Interrupted out of the wait, a changed window
    is the master's to know."""

    ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

    def __init__(self, master: int) -> None:
        self._master = master
        self._receiver, self._sender = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Signals":
        signal.set_wakeup_fd(self._sender)
        for number in (*self.ENDING, signal.SIGWINCH):
            action = signal.getsignal(number)
            if action != signal.SIG_IGN:  # nohup holds for us, too
                self._before[number] = action
                signal.signal(number, _take_note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, action in self._before.items():
            signal.signal(number, action)
        signal.set_wakeup_fd(-1)
        os.close(self._receiver)
        os.close(self._sender)

    def wait_for(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._receiver, select.POLLIN)
        while True:
            ready = [number for number, _ in poll.poll()]
            if self._receiver in ready:
                self._obey(os.read(self._receiver, 64))
            if fd in ready:
                return

    def _obey(self, numbers: bytes) -> None:
        if any(number in self.ENDING for number in numbers):
            raise Interrupted
        self.tell_of_window()

    def tell_of_window(self) -> None:
        """Have the master look at its clients' windows."""
        if self._master > 1:
            try:
                os.kill(self._master, signal.SIGWINCH)
            except OSError:  # it has gone, or is another user's
                return


def _take_note(number: int, frame: object) -> None:
    """The wakeup descriptor has it already."""
