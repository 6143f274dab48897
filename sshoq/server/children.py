"""Process: main [root]. How main's children come into being: the router in a fresh image, the
monitor as a copy of main that keeps nothing but its own two sockets.

The router and the network processes read packets, so their memory must never have held the TLS
key: they start from an image of their own. A monitor needs key and configuration, and a fork is
what makes it cheap.
"""

import contextlib
import fcntl
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence

from sshoq.server import log, signals
from sshoq.server.config import ServerConfig
from sshoq.server.connection import ConnectionFacts
from sshoq.server.identity import Identity

RunMonitor = Callable[[socket.socket, socket.socket, ServerConfig, Identity, ConnectionFacts], int]

ROUTER_CODE = """\
from sshoq.server.libc import set_process_name
set_process_name("sshoq-router")  # not later: what follows takes its time
from sshoq.server.router import run_router
status = run_router(socket.socket(fileno=3), socket.socket(fileno=4), int(sys.argv[1]))
os._exit(status)  # at once: the next server waits for the port
"""
_ROUTER_START = "import os, socket, sys\nsys.path[:] = {paths!r}\n{code}"

_KERNELS_MOST = 1 << 20
"""The kernel's own limit, unless it was raised (fs.nr_open)."""

WANTED_DESCRIPTORS = 1 << 16
"""What root allows itself where the limit that it was started with is lower."""

_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)
"""Not those that monitors wait for, too."""


def start_router(
    listener: socket.socket, to_main: socket.socket, number: int, code: str = ROUTER_CODE
) -> int:
    """The pid of a new router that has these two sockets and nothing else of ours."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            _become_program(listener.fileno(), to_main.fileno(), number, code)
        os._exit(127)
    return pid


def _become_program(listener: int, to_main: int, number: int, code: str) -> None:
    _leave_main()  # but for the limit: a router, too, has a descriptor for each connection
    # By way of high numbers, since each of the two may be where the other has to go.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (listener, to_main)]
    os.dup2(high[0], 3)
    os.dup2(high[1], 4)
    paths = [path for path in sys.path if os.path.isabs(path)]
    start = _ROUTER_START.format(paths=paths, code=code)
    # Isolated: neither the directory we happen to be in nor PYTHON… variables have a say.
    arguments = [sys.executable, "-I", "-S", "-c", start, str(number)]
    os.execve(sys.executable, arguments, {"LC_ALL": "C.UTF-8"})


def start_monitor(
    run: RunMonitor,
    sockets: tuple[socket.socket, socket.socket],
    config: ServerConfig,
    identity: Identity,
    connection: ConnectionFacts,
    keep: Sequence[int],
    first_closed: int,
) -> int:
    """The pid of a new monitor. Of our descriptors from `first_closed` it has those in `keep`."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            _leave_main()
            _restore_descriptor_limit()
            _close_others(first_closed, [end.fileno() for end in sockets] + list(keep))
            status = run(*sockets, config, identity, connection)
        except BaseException as error:
            _confess(error)
        finally:
            os._exit(status & 0xFF)
    return pid


def _confess(error: BaseException) -> None:
    """A bug of ours, or a machine that lacks something. Of a daemon nobody sees more than the log.
    """
    *_, place = traceback.extract_tb(error.__traceback__)
    where = f"{os.path.basename(place.filename)}:{place.lineno}"
    log.fatal(f"monitor ended at {where}: {type(error).__name__}: {error}")
    sys.excepthook(type(error), error, error.__traceback__)


def _leave_main() -> None:
    """Main's signals are not the child's, nor are those that a terminal sends to main's group."""
    signal.set_wakeup_fd(-1)
    signals.dispose(_SIGNALS, signals.DEFAULT)
    os.setsid()
    _restore_oom_score()


def _close_others(first: int, keep: Sequence[int]) -> None:
    """Listeners and other monitors' sockets. The objects stay, on frames that never return.

    Up to main's limit: the child's own may be lower, and main has used more."""
    start = first
    for descriptor in sorted(set(keep)):
        if descriptor >= start:
            os.closerange(start, descriptor)
            start = descriptor + 1
    os.closerange(start, _most_descriptors)


# --------------------------------------------------------------------------- what main has more of

_descriptor_limit: tuple[int, int] | None = None
_most_descriptors = _KERNELS_MOST


def raise_descriptor_limit() -> None:
    """Main and routers have a descriptor for each connection. Monitors, and so the programs of
    users, get back what they would have had."""
    global _descriptor_limit, _most_descriptors
    _descriptor_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = _descriptor_limit[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return
    with contextlib.suppress(OSError, ValueError):  # root alone may, and not beyond fs.nr_open
        most = max(hard, WANTED_DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _most_descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _restore_descriptor_limit() -> None:
    if _descriptor_limit is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, _descriptor_limit)


_OOM_FILE = "/proc/self/oom_score_adj"
_oom_score: bytes | None = None


def protect_from_oom() -> None:
    """Main is not to be killed for what users' programs use; as sshd."""
    global _oom_score
    with contextlib.suppress(OSError), open(_OOM_FILE, "rb+", buffering=0) as file:
        before = file.read()
        file.seek(0)
        file.write(b"-1000\n")
        _oom_score = before


def _restore_oom_score() -> None:
    if _oom_score is not None:
        with contextlib.suppress(OSError):
            descriptor = os.open(_OOM_FILE, os.O_WRONLY)
            os.write(descriptor, _oom_score)
            os.close(descriptor)
