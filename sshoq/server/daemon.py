"""Process: main [root]. What a daemon owes to whoever starts it and to whoever looks after it."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterable

from sshoq.server import log
from sshoq.server.children import raise_descriptor_limit


def settle_process(log_descriptor: int) -> None:
    """Nothing of what our starter had open but the log, and files that nobody else may write."""
    kept = max(2, log_descriptor)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    os.umask(os.umask(0o077) | 0o022)
    raise_descriptor_limit()


def fill_standard_descriptors() -> None:
    """Whoever starts us may have closed some: a socket must not get the number that logs and
    programs write to."""
    opened = os.open(os.devnull, os.O_RDWR)
    while opened <= 2:
        os.set_inheritable(opened, True)
        opened = os.dup(opened)
    os.close(opened)


def daemonise() -> None:
    """The parent returns to the shell at once, as sshd's does."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def notify_systemd(state: str) -> None:
    """sd_notify(3), which is a datagram."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path or path[0] not in "/@":
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.connect("\0" + path[1:] if path[0] == "@" else path)
        end.send(state.encode())


def await_children(pids: Iterable[int], seconds: float) -> None:
    """Until these children have ended; the ones that do not are killed."""
    end = time.monotonic() + seconds
    left = set(pids)
    while left and time.monotonic() < end:
        for pid in list(left):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            left.discard(pid)
        if left:
            time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)


def write_pid_file(path: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        log.error(f'Couldn\'t create pid file "{path}": {error.strerror}')


def remove_pid_file(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
