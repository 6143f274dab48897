"""Runs of the client without its start: a process that has loaded everything forks for each.

A start is a third of a second of imports. Where a hundred servers are to be tried, that is all the
time there is. What runs is the program, with its own standard streams, from `main()` on.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from tests.client.little_server import Result, client_environment

PATIENCE = 60.0
MAX_OUTPUT = 16 << 20
"""More than any test lets a server say; a client that writes more is stopped."""

LOADED = (
    "asyncio", "sshoq.client.main", "sshoq.client.fallback", "sshoq.client.file_run",
    "sshoq.client.file_shell", "sshoq.client.first_flight", "sshoq.client.forwards",
    "sshoq.client.display", "sshoq.client.host_key_update", "sshoq.client.online",
    "sshoq.transport.engine",
)  # fmt: skip
"""What most runs need. What else one needs, it loads itself."""


class QuickClient:
    """`run` is a run of the client. Made by `quick_client`."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def run(
        self, *words: str, given: bytes | None = b"", environ: Mapping[str, str] | None = None
    ) -> Result:
        """`given` None: the input stays open for as long as the client is there."""
        inputs, outputs, errors = os.pipe(), os.pipe(), os.pipe()
        asked = json.dumps([words, client_environment(environ)]).encode()
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
            end.connect(self._path)
            socket.send_fds(end, [asked], [inputs[0], outputs[1], errors[1]])
            for fd in (inputs[0], outputs[1], errors[1]):
                os.close(fd)
            if given is not None:
                os.write(inputs[1], given)
                os.close(inputs[1])
            end.setblocking(False)
            try:
                async with asyncio.timeout(PATIENCE):
                    said, complaints, status = await asyncio.gather(
                        _read(outputs[0]), _read(errors[0]), loop.sock_recv(end, 100)
                    )
            finally:
                if given is None:
                    os.close(inputs[1])
        return Result(int(status), said, complaints.decode().replace("\r\n", "\n"))


async def _read(fd: int) -> bytes:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0)
    )
    found = bytearray()
    try:
        while len(found) < MAX_OUTPUT and (data := await reader.read(1 << 16)):
            found += data
    finally:
        transport.close()
    return bytes(found)


@contextmanager
def quick_client(folder: Path) -> Iterator[QuickClient]:
    """The process that forks, for as long as the block."""
    path = str(folder / "quick-client")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(16)
        words = [sys.executable, "-m", "tests.client.quick_client", str(listener.fileno())]
        process = subprocess.Popen(
            words, pass_fds=[listener.fileno()], env=client_environment(), stdin=subprocess.PIPE
        )
    try:
        yield QuickClient(path)
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


# --------------------------------------------------------------------------- in that process


def _serve(listener: socket.socket) -> NoReturn:
    while True:
        end, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _run_one(end)
        end.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0] > 0:
                pass


def _run_one(end: socket.socket) -> NoReturn:
    """In a child, which has another for the run, and says how that ended."""
    asked, descriptors, _, _ = socket.recv_fds(end, 1 << 16, 3)
    words, environ = json.loads(asked)
    pid = os.fork()
    if pid == 0:
        for fd, given in enumerate(descriptors):
            os.dup2(given, fd)
        os.environ.clear()
        os.environ.update(environ)
        sys.argv[1:] = words
        from sshoq.client.main import main

        main()
    for fd in descriptors:
        os.close(fd)
    poll = select.poll()
    for waited in (os.pidfd_open(pid), end.fileno()):
        poll.register(waited, select.POLLIN)
    poll.poll()
    os.kill(pid, signal.SIGKILL)  # too late for one that has ended; else nobody waits for it
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        end.send(b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


if __name__ == "__main__":
    for name in LOADED:
        __import__(name)
    sys.argv[0] = "sshoq"
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
