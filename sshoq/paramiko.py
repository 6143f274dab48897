"""For programs that use paramiko: its client, sessions and SFTP over SSHOQ, and a socket for its
`sock`.

Drives the program `sshoq`, so that configuration, keys, agent, known hosts and jump hosts are
sshoq's, and imports nothing else of this package. It asks nobody: what needs a passphrase belongs
into the agent.

    from sshoq.paramiko import ProxySocket, SSHClient

    with SSHClient() as client:                   # all over SSHOQ, no sshd needed
        client.connect("example.org/secret", username="alice")
        stdin, stdout, stderr = client.exec_command("uname -a")
        client.open_sftp().get("notes.txt", "notes.txt")

    client = paramiko.SSHClient()                 # to the sshd behind the server
    client.connect("example.org", sock=ProxySocket("alice@example.org/secret"))
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import threading
import time
import tty
from collections.abc import Mapping, Sequence
from typing import Any

import paramiko
from paramiko.channel import ChannelFile, ChannelStderrFile, ChannelStdinFile

IDLE_SECONDS = 60
"""How long the connection outlives the last session, should its owner die. Later ones make a new
one."""

PIPE_SIZE = 1 << 20
"""What a program may write before somebody reads it; more is the kernel's to refuse."""

GRACE = 2.0
"""Seconds for what was sent to arrive, after a channel is closed."""

CLOSE_TIME = 10.0
"""Seconds for the master to answer."""

POLL = 0.01

_F_SETPIPE_SZ = 1031
_CONNECTION_FAILED = 255
_GONE = (errno.EIO, errno.ECONNRESET)


class ProxySocket(socket.socket):
    """A connection to a TCP port as the server sees it, by default to its sshd: `sshoq --stdio`.

    For `paramiko.SSHClient.connect(sock=...)`. Why it failed is said on our standard error.
    """

    def __init__(
        self,
        destination: str,
        target: str = "",
        *,
        flags: Sequence[str] = (),
        program: str = "sshoq",
    ) -> None:
        near, far = socket.socketpair()
        with far:
            words = [program, "-o", "BatchMode=yes", *flags, "--stdio", "--", destination]
            try:
                self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                    [*words, *([target] if target else [])], stdin=far.fileno(), stdout=far.fileno()
                )
            except OSError:
                near.close()
                raise
        super().__init__(near.family, near.type, near.proto, near.detach())

    def close(self) -> None:
        super().close()
        process, self._process = self._process, None
        if process is not None:
            _let_end(process)


class SSHClient(paramiko.SSHClient):
    """paramiko's client on a connection of sshoq's. Host keys are sshoq's business."""

    def connect(  # type: ignore[override]  # what sshoq does not take is refused, not ignored
        self,
        hostname: str,
        port: int | None = None,
        username: str | None = None,
        *,
        key_filename: str | Sequence[str] = (),
        timeout: float | None = None,
        flags: Sequence[str] = (),
        program: str = "sshoq",
    ) -> None:
        """`hostname` may have a path behind it; what is not given comes from the configuration."""
        keys = [key_filename] if isinstance(key_filename, str) else key_filename
        own = [word for key in keys for word in ("-i", os.fspath(key))]
        own += ["-p", str(port)] if port is not None else []
        own += ["-l", username] if username is not None else []
        own += ["-o", f"ConnectTimeout={max(round(timeout), 1)}"] if timeout is not None else []
        self.close()
        # In paramiko's own Transport the packets are its own.
        transport: Any = Transport(hostname, flags=[*own, *flags], program=program)
        self._transport = transport


class Transport(paramiko.util.ClosingContextManager):
    """A connection that sessions share. As much of paramiko's Transport as sessions need."""

    def __init__(
        self, destination: str, *, flags: Sequence[str] = (), program: str = "sshoq"
    ) -> None:
        """Connects and logs in. AuthenticationException, SSHException."""
        self._destination = destination
        self._folder = tempfile.mkdtemp(prefix="sshoq-")
        self._path = os.path.join(self._folder, "s")
        self._words = [program, "-o", "BatchMode=yes", "-S", self._path, *flags]
        self._numbers = 0
        try:
            self._log_in()
        except BaseException:
            self.close()
            raise

    def _log_in(self) -> None:
        """Leaves a master behind, which passes on whatever a session wants to have sent."""
        flags = ["-f", "-N", "-M", "-o", f"ControlPersist={IDLE_SECONDS}", "-o", "SendEnv=*"]
        with tempfile.TemporaryFile() as errors:  # no pipe: the master will keep it open
            done = subprocess.run(
                self.command(flags),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            if done.returncode == 0:
                return
            errors.seek(0)
            text = errors.read(PIPE_SIZE).decode(errors="replace").strip()
        if re.search(r": Permission denied( \(.*\))?\.", text):
            raise paramiko.AuthenticationException(text)
        raise paramiko.SSHException(text or f"sshoq ended with status {done.returncode}")

    def command(self, flags: Sequence[str], words: Sequence[str] = ()) -> list[str]:
        """The command line of a session; behind `--`, nothing is taken for a flag."""
        return [*self._words, *flags, "--", self._destination, *words]

    def open_session(
        self,
        window_size: int | None = None,
        max_packet_size: int | None = None,
        timeout: float | None = None,
    ) -> Channel:
        """QUIC has its own windows and packets, and a session waits for nobody until it starts."""
        if not os.path.exists(self._folder):
            raise paramiko.SSHException("SSH session not active")
        if not self.is_active():
            self._log_in()
        self._numbers += 1
        return Channel(self, self._numbers)

    def open_channel(
        self,
        kind: str,
        dest_addr: tuple[str, int] | None = None,
        src_addr: tuple[str, int] | None = None,
        window_size: int | None = None,
        max_packet_size: int | None = None,
        timeout: float | None = None,
    ) -> Channel:
        """`session`, or `direct-tcpip` to an address as the server sees it."""
        channel = self.open_session()
        if kind == "direct-tcpip" and dest_addr is not None:
            channel.connect(*dest_addr)
        elif kind != "session":
            raise paramiko.SSHException(f"no channels of type {kind}")
        return channel

    def open_sftp_client(self) -> paramiko.SFTPClient:
        channel = self.open_session()
        channel.invoke_subsystem("sftp")
        sock: Any = channel  # whatever reads and writes will do
        try:
            return paramiko.SFTPClient(sock)
        except BaseException:
            channel.close()
            raise

    @property
    def active(self) -> bool:
        return self.is_active()

    def is_active(self) -> bool:
        """Whether the connection stands; if it was merely idle, the next session makes a new
        one."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self._path) == 0

    def is_authenticated(self) -> bool:
        return self.is_active()

    def close(self) -> None:
        """Ends all sessions. A master that is stopped and does not hear it ends when it is idle."""
        if os.path.exists(self._path):
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    self.command(["-O", "exit"]),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=CLOSE_TIME,
                )
        shutil.rmtree(self._folder, ignore_errors=True)


class Channel(paramiko.util.ClosingContextManager):
    """A session or a forwarded connection: one run of the program. As paramiko's Channel."""

    def __init__(self, transport: Transport, number: int) -> None:
        self._transport = transport
        self._number = number
        self._name = str(number)
        self._timeout: float | None = None
        self._environment: dict[str, str] = {}
        self._term: str | None = None
        self._size = (24, 80, 0, 0)
        self._combine = False
        self._process: subprocess.Popen[bytes] | None = None
        self._input = self._output = self._errors = -1
        self.closed = False

    # ------------------------------------------------------------------ what is to run

    def get_pty(
        self,
        term: str = "vt100",
        width: int = 80,
        height: int = 24,
        width_pixels: int = 0,
        height_pixels: int = 0,
    ) -> None:
        self._term = term
        self._size = (height, width, width_pixels, height_pixels)

    def update_environment(self, environment: Mapping[str, str]) -> None:
        """The server takes what its AcceptEnv allows."""
        for name, value in environment.items():
            self.set_environment_variable(name, value)

    def set_environment_variable(self, name: str, value: str) -> None:
        if not name or any(character in name + value for character in "\0\r\n"):
            raise ValueError(f"cannot be sent as an environment variable: {name}")
        self._environment[name] = value

    def set_combine_stderr(self, combine: bool) -> bool:
        before, self._combine = self._combine, combine
        return before

    def exec_command(self, command: str | bytes) -> None:
        self._start([], [os.fsdecode(command)])

    def invoke_shell(self) -> None:
        self._start([])

    def invoke_subsystem(self, subsystem: str) -> None:
        self._start(["-s"], [subsystem])

    def connect(self, host: str, port: int) -> None:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._run(["-W", address], [], dict(os.environ), None)

    def _start(self, flags: list[str], words: Sequence[str] = ()) -> None:
        pairs = [_quote(f"{name}={value}") for name, value in self._environment.items()]
        flags = [*flags, *(["-o", "SetEnv=" + " ".join(pairs)] if pairs else [])]
        if self._term is None:
            self._run([*flags, "-T"], words, dict(os.environ), None)
            return
        environment = os.environ | {"TERM": self._term}
        self._run([*flags, "-tt", "-e", "none"], words, environment, self._size)

    def _run(
        self,
        flags: list[str],
        words: Sequence[str],
        environment: Mapping[str, str],
        size: tuple[int, int, int, int] | None,
    ) -> None:
        if self._process is not None or self.closed:
            raise paramiko.SSHException("Channel is closed" if self.closed else "Channel is in use")
        command = self._transport.command(flags, words)
        errors = subprocess.STDOUT if self._combine else subprocess.PIPE
        if size is None:
            process = subprocess.Popen(
                command, env=environment, stderr=errors,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            self._input, self._output = _take(process.stdin), _take(process.stdout)
        else:
            process, self._input = _start_in_terminal(command, environment, errors, size)
            self._output = os.dup(self._input)
        self._errors = _take(process.stderr) if process.stderr is not None else -1
        self._process = process
        for fd in (self._input, self._output, self._errors):
            _prepare(fd)

    def resize_pty(
        self, width: int = 80, height: int = 24, width_pixels: int = 0, height_pixels: int = 0
    ) -> None:
        process = self._running()
        _set_size(self._input, (height, width, width_pixels, height_pixels))
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGWINCH)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise paramiko.SSHException("Channel is not open")
        return self._process

    # ------------------------------------------------------------------ reading and writing

    def recv(self, nbytes: int) -> bytes:
        """At least a byte; none at the end. TimeoutError."""
        return self._read(self._output, nbytes)

    def recv_stderr(self, nbytes: int) -> bytes:
        return self._read(self._errors, nbytes)

    def recv_ready(self) -> bool:
        return _waiting(self._output) > 0

    def recv_stderr_ready(self) -> bool:
        return _waiting(self._errors) > 0

    def send_ready(self) -> bool:
        return self._input >= 0 and _poll(self._input, select.POLLOUT, 0)

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """How much of it went. TimeoutError; OSError if nobody will read it."""
        if self._input < 0:
            raise OSError("Socket is closed")
        deadline = _deadline(self._timeout)
        while True:
            with contextlib.suppress(BlockingIOError):
                return os.write(self._input, data)
            _wait(self._input, select.POLLOUT, deadline)

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[self.send(view) :]

    def _read(self, fd: int, size: int) -> bytes:
        if fd < 0:
            return b""
        deadline = _deadline(self._timeout)
        while True:
            try:
                return os.read(fd, size)
            except BlockingIOError:
                _wait(fd, select.POLLIN, deadline)
            except OSError as error:
                if error.errno in _GONE:
                    return b""
                raise

    def makefile(self, *params: Any) -> ChannelFile:
        return ChannelFile(self._as_channel(), *params)

    def makefile_stderr(self, *params: Any) -> ChannelStderrFile:
        return ChannelStderrFile(self._as_channel(), *params)

    def makefile_stdin(self, *params: Any) -> ChannelStdinFile:
        return ChannelStdinFile(self._as_channel(), *params)

    def _as_channel(self) -> Any:
        """Its files ask a channel for no more than we have."""
        return self

    def fileno(self) -> int:
        """Readable when recv is; for select, not for reading."""
        return self._output

    def settimeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        return self._timeout

    def setblocking(self, blocking: bool) -> None:
        self._timeout = None if blocking else 0.0

    # ------------------------------------------------------------------ the end

    def exit_status_ready(self) -> bool:
        return self._running().poll() is not None

    def recv_exit_status(self) -> int:
        """255 also when the connection was lost, as of ssh; -1 when the program was killed."""
        return max(self._running().wait(), -1)

    def shutdown_write(self) -> None:
        """The other side sees an end. In a terminal that is a key, and this does nothing."""
        if self._input >= 0 and not os.isatty(self._input):
            fd, self._input = self._input, -1
            os.close(fd)

    def shutdown(self, how: int) -> None:
        if how in (socket.SHUT_WR, socket.SHUT_RDWR):
            self.shutdown_write()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for fd in (self._input, self._output, self._errors):
            if fd >= 0:
                os.close(fd)
        self._input = self._output = self._errors = -1
        if self._process is not None:
            _let_end(self._process)

    def __del__(self) -> None:
        self.close()

    # ------------------------------------------------------------------ who it is

    def get_transport(self) -> Transport:
        return self._transport

    def get_id(self) -> int:
        return self._number

    def get_name(self) -> str:
        return self._name

    def set_name(self, name: str) -> None:
        self._name = name


# --------------------------------------------------------------------------- the program


def _start_in_terminal(
    command: list[str],
    environment: Mapping[str, str],
    errors: int,
    size: tuple[int, int, int, int],
) -> tuple[subprocess.Popen[bytes], int]:
    """The program, and the other end of its terminal, whose size and modes the server is told."""
    ours, theirs = os.openpty()
    try:
        _set_size(theirs, size)
        process = subprocess.Popen(
            command, env=environment, stdin=theirs, stdout=theirs, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    while _is_cooked(ours) and process.poll() is None:  # would echo and edit what is sent
        time.sleep(POLL)
    return process, ours


def _is_cooked(fd: int) -> bool:
    return bool(termios.tcgetattr(fd)[tty.LFLAG] & termios.ICANON)


def _let_end(process: subprocess.Popen[bytes]) -> None:
    """It sees that its streams have ended, and sends what it has; without making anybody wait."""
    if process.poll() is None:
        threading.Thread(target=_see_end, args=(process,), daemon=True).start()


def _see_end(process: subprocess.Popen[bytes]) -> None:
    for stop in (process.terminate, process.kill):
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            stop()
        else:
            return
    process.wait()


def _quote(word: str) -> str:
    """As one word of a configuration line."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --------------------------------------------------------------------------- descriptors


def _take(stream: Any) -> int:
    """The descriptor alone, ours from now on."""
    fd = os.dup(stream.fileno())
    stream.close()
    return fd


def _prepare(fd: int) -> None:
    if fd >= 0:
        os.set_blocking(fd, False)
        with contextlib.suppress(OSError):  # a terminal, or the user's limit is reached
            fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE_SIZE)


def _set_size(fd: int, size: tuple[int, int, int, int]) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", *size))


def _waiting(fd: int) -> int:
    if fd < 0:
        return 0
    try:
        answer = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(answer, "little")


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _wait(fd: int, event: int, deadline: float | None) -> None:
    rest = None if deadline is None else max(deadline - time.monotonic(), 0.0)
    if not _poll(fd, event, rest):
        raise TimeoutError("timed out")


def _poll(fd: int, event: int, timeout: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(None if timeout is None else timeout * 1000))
