"""A terminal with a program in it, driven as a person would: look for a text, type, change the
window's size."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

EXPECT_TIMEOUT = 30.0
# A program that floods the terminal must not fill our memory: what is older than this cannot be
# expected any more.
KEPT = 1 << 20
# What may be left in the terminal when its program has ended; something in the background may go
# on writing.
LAST_READS = 64


class Terminal:
    """Runs a command as the foreground process of a pseudo-terminal of its own."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], rows: int = 24, columns: int = 80
    ) -> None:
        self._master, slave = os.openpty()
        os.set_blocking(self._master, False)
        self.resize(rows, columns)
        self._unread = b""
        self.transcript = b""
        self.first_attributes = termios.tcgetattr(slave)
        """The line settings that the program found."""
        # setsid makes the terminal the program's controlling one; a preexec_fn would fork beside
        # pytest's threads.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, env=env
        )
        self._slave = slave

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=30)
        os.close(self._slave)
        os.close(self._master)

    def resize(self, rows: int, columns: int) -> None:
        """The kernel tells the foreground process group with SIGWINCH."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        while data:
            select.select([], [self._master], [], EXPECT_TIMEOUT)
            data = data[os.write(self._master, data) :]

    def expect(self, pattern: str, timeout: float = EXPECT_TIMEOUT) -> re.Match[bytes]:
        """Wait for the pattern in what has come since the last match."""
        compiled = re.compile(pattern.encode(), re.DOTALL)
        deadline = time.monotonic() + timeout
        while True:
            if match := compiled.search(self._unread):
                self._unread = self._unread[match.end() :]
                return match
            if not self._receive(deadline - time.monotonic()):
                raise AssertionError(f"no {pattern!r} in {self._unread!r}")

    def read_to_end(self, timeout: float = EXPECT_TIMEOUT) -> bytes:
        """Everything from here until the program has ended."""
        self.wait(timeout)
        while self._receive(0.0):
            pass
        rest, self._unread = self._unread, b""
        return rest

    def wait(self, timeout: float = EXPECT_TIMEOUT) -> int:
        """The exit status; reads on meanwhile, since a program that cannot write cannot end."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            self._receive(0.05)
            if time.monotonic() > deadline:
                raise AssertionError(f"still running; last output {self._unread[-500:]!r}")
        for _ in range(LAST_READS):
            if not self._receive(0.0):
                break
        return self.process.returncode

    def attributes(self) -> list[object]:
        """The line settings, to see whether they were put back."""
        return termios.tcgetattr(self._slave)

    def _receive(self, timeout: float) -> bool:
        """One read within the time; false when nothing came."""
        if not select.select([self._master], [], [], max(timeout, 0.0))[0]:
            return False
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(self._master, 65536)
        self.transcript = (self.transcript + data)[-KEPT:]
        self._unread = (self._unread + data)[-KEPT:]
        return bool(data)
