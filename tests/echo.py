"""Servers of this machine's that answer with what they are sent, for forwardings to lead to."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
from collections.abc import Iterator

BLOB = os.urandom(1 << 20)


class Echo(socketserver.BaseRequestHandler):
    """Answers each connection with what it got, prefixed; half-close is the end of the question."""

    request: socket.socket

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.request.sendall(b"echo:")
            while data := self.request.recv(65536):
                self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256


class UnixEchoServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 256


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def exchange(connection: socket.socket, data: bytes) -> bytes:
    def send() -> None:
        with contextlib.suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    answer = b""
    while part := connection.recv(65536):
        answer += part
    sender.join()
    return answer


def ask(target: int | str, data: bytes = BLOB) -> bytes:
    """Send, half-close, read to the end; reading meanwhile, as the echo does not buffer for us."""
    family = socket.AF_INET if isinstance(target, int) else socket.AF_UNIX
    with socket.socket(family) as connection:
        connection.settimeout(30)
        connection.connect(("127.0.0.1", target) if isinstance(target, int) else target)
        return exchange(connection, data)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
