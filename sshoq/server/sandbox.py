"""Process: router and network process [service user]. What they give up before they read a packet.

Their memory is assumed to be an attacker's from the first datagram on. So: an empty directory as
root, the service user without groups and capabilities, no new privileges, hard limits, no core and
no ptrace, and a system call filter that leaves what a relay needs. Whoever calls here must have
loaded everything before, since no file can be opened afterwards. Without root the ids and the root
directory stay, the rest holds.
"""

import functools
import os
import platform
import pwd
import resource

from sshoq.server import libc
from sshoq.server.login import enter_empty_root, give_up_root
from sshoq.server.seccomp import MACHINES, NETWORK_RULES, ROUTER_RULES, compile_filter

SERVICE_USER = "sshoq"
EMPTY_DIRECTORY = "/run/sshoq/empty"

MAX_DESCRIPTORS = 4096
"""Of a network process: 1,024 channels with three descriptors each, and room."""

MAX_ROUTER_DESCRIPTORS = 65536
"""One for each connection: as many as could come from one address."""


class SandboxError(Exception):
    """The confinement cannot be had; the process must not go on."""


def prepare_sandbox() -> str | None:
    """Main, once, before the routers start: what is missing for the confinement, in one line, or
    None."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return (
            f"Privilege separation user {SERVICE_USER} does not exist; make it with: useradd "
            f"--system --no-create-home --home-dir {EMPTY_DIRECTORY} "
            f"--shell /usr/sbin/nologin {SERVICE_USER}"
        )
    before = os.umask(0o022)
    try:
        os.makedirs(EMPTY_DIRECTORY, mode=0o755, exist_ok=True)
        return _place_complaint()
    except OSError as error:
        return f"Missing privilege separation directory: {EMPTY_DIRECTORY}: {error.strerror}"
    finally:
        os.umask(before)


def _place_complaint() -> str | None:
    """Where somebody else could write, he could put another directory in its place."""
    for directory in (os.path.dirname(EMPTY_DIRECTORY), EMPTY_DIRECTORY):
        state = os.stat(directory)
        if state.st_uid != 0 or state.st_mode & 0o022:
            return f"{directory} must be owned by root and not group or world-writable."
    return None


def unconfined_reason() -> str | None:
    """What main should log if this machine gets less than the whole confinement."""
    if platform.machine() in MACHINES:
        return None
    return f"no system call filter is known for {platform.machine()}: there will be none"


def confine_router() -> None:
    """The router keeps fork, so that it can start network processes; they confine themselves
    further."""
    if os.geteuid() == 0:
        try:
            account = pwd.getpwnam(SERVICE_USER)
        except KeyError:
            raise SandboxError(f"user {SERVICE_USER} does not exist") from None
        enter_empty_root(EMPTY_DIRECTORY)
        give_up_root(account.pw_uid, account.pw_gid)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _limit_descriptors(MAX_ROUTER_DESCRIPTORS)
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    _install_filter("router")


def confine_network() -> None:
    """After the fork from a confined router: no more children, no more changes of the
    confinement."""
    # Not in the router: the limit counts all processes of the user, and the router's children are
    # many.
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    _limit_descriptors(MAX_DESCRIPTORS)
    _install_filter("network")


def _limit_descriptors(most: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = most if hard == resource.RLIM_INFINITY else min(hard, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def prepare_filters() -> None:
    """Before the router forks, so that not every child does it anew."""
    _filter("router")
    _filter("network")


@functools.cache
def _filter(name: str) -> bytes | None:
    machine = MACHINES.get(platform.machine())
    return compile_filter(_RULES[name], machine) if machine is not None else None


_RULES = {"router": ROUTER_RULES, "network": NETWORK_RULES}


def _install_filter(name: str) -> None:
    program = _filter(name)
    if program is not None:
        libc.set_seccomp_filter(program)
