"""That the kernel denies what the confinement of router and network process takes away.

Each attempt is made in a process of its own, since some of them are deadly.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sshoq.server import sandbox
from sshoq.server.sandbox import unconfined_reason
from tests.needs import need_root

pytestmark = pytest.mark.privileged

# `nobody` stands in for the service user, which this machine need not have.
PREPARE = """\
import asyncio, ctypes, fcntl, mmap, os, resource, signal, socket, sys, termios, threading
import sshoq.server.sandbox as sandbox
sandbox.SERVICE_USER = "nobody"
sandbox.EMPTY_DIRECTORY = sys.argv[1]
assert sandbox.prepare_sandbox() is None
libc = ctypes.CDLL(None, use_errno=True)
outside, _ = socket.socketpair()
stranger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
stranger.bind("")  # an abstract name, which is in no directory
reader, writer = os.pipe()
victim = os.getppid()
def call(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return result
"""
CONFINE = {
    "nothing": "",
    "router": "sandbox.confine_router()\n",
    "network": "sandbox.confine_router()\nsandbox.confine_network()\n",
}
SIGSYS = 31


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()
    if reason := unconfined_reason():
        pytest.skip(reason)


def attempt(tmp_path: Path, how: str, code: str) -> subprocess.CompletedProcess[str]:
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    empty = tmp_path / "empty"
    empty.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", PREPARE + CONFINE[how] + code, str(empty)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


REFUSED = {
    "signal by way of a socket": "fcntl.fcntl(outside, fcntl.F_SETOWN, victim)",
    "take everybody's packets": "outside.connect('')",
    "program the sockets at our address": "outside.setsockopt(1, 51, bytes(16))",
    "load a protocol": "socket.socketpair(socket.AF_NETLINK)",
    "speak to strangers": "socket.socketpair(type=2)[0].sendto(b'', stranger.getsockname())",
    "open": "open('/etc/passwd')",
    "list": "os.listdir('/')",
    "stat": "os.stat('/')",
    "signal": "os.kill(victim, 0)",
    "type into a terminal": "fcntl.ioctl(writer, termios.TIOCSTI, b'x')",
    "executable memory": "mmap.mmap(-1, 4096, prot=7)",
}
DEADLY = {
    "execute": "os.execv('/bin/true', ['true'])",
    "connect to the world": "socket.socket()",
    "trace": "call(libc.ptrace(16, victim, 0, 0))",
    "namespace": "call(libc.unshare(0x10000000))",
    "become root": "os.setuid(0)",
    "read another's memory": "call(libc.process_vm_readv(victim, 0, 0, 0, 0, 0))",
}
REFUSED_TO_NETWORK = {
    "fork": "os.fork()",
    "thread": "threading.Thread(target=print).start()",
    "limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))",
    "relax": "call(libc.prctl(4, 1, 0, 0, 0))",
}


FREE = ("open", "execute", "speak to strangers")
"""To whoever is not confined."""


@pytest.mark.parametrize("how", ["router", "network"])
@pytest.mark.parametrize("code", REFUSED.values(), ids=list(REFUSED))
def test_some_attempts_fail(tmp_path: Path, how: str, code: str) -> None:
    # The wrong exit would be 0: the attempt went well; or a signal.
    text = f"try:\n    {code}\nexcept (OSError, RuntimeError):\n    os._exit(3)\nos._exit(0)\n"
    assert attempt(tmp_path, how, text).returncode == 3


@pytest.mark.parametrize("how", ["router", "network"])
@pytest.mark.parametrize("code", DEADLY.values(), ids=list(DEADLY))
def test_some_attempts_are_the_last(tmp_path: Path, how: str, code: str) -> None:
    assert attempt(tmp_path, how, code + "\n").returncode == -SIGSYS


@pytest.mark.parametrize("code", REFUSED_TO_NETWORK.values(), ids=list(REFUSED_TO_NETWORK))
def test_a_network_process_stays_alone_and_as_it_is(tmp_path: Path, code: str) -> None:
    errors = "OSError, RuntimeError, ValueError"
    text = f"try:\n    {code}\nexcept ({errors}):\n    os._exit(3)\nos._exit(0)\n"
    assert attempt(tmp_path, "network", text).returncode == 3


@pytest.mark.parametrize(
    "code", [code for name, code in {**REFUSED, **DEADLY}.items() if name in FREE]
)
def test_without_the_confinement_the_same_goes_well(tmp_path: Path, code: str) -> None:
    """Else the tests above would show nothing."""
    assert attempt(tmp_path, "nothing", f"{code}\nos._exit(0)\n").returncode == 0


def test_a_confined_process_is_nobody_with_nothing(tmp_path: Path) -> None:
    code = """\
assert os.getresuid() == (65534,) * 3 and os.getresgid() == (65534,) * 3
assert os.getgroups() == []
assert resource.getrlimit(resource.RLIMIT_NPROC) == (0, 0)
assert resource.getrlimit(resource.RLIMIT_FSIZE) == (0, 0)
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= 4096
"""
    done = attempt(tmp_path, "network", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_router_can_start_network_processes(tmp_path: Path) -> None:
    code = """\
pid = os.fork()
if pid == 0:
    sandbox.confine_network()
    os._exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
"""
    done = attempt(tmp_path, "router", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_router_cannot_limit_other_processes(tmp_path: Path) -> None:
    """Its user has those of all connections, and the end of processor time ends a process."""
    code = """\
pid = os.fork()
if pid == 0:
    os.close(writer)
    os.read(reader, 1)
    os._exit(0)
try:
    resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1))
except PermissionError:
    os._exit(3)
os._exit(0)
"""
    assert attempt(tmp_path, "router", code).returncode == 3


def test_a_confined_process_can_run_an_event_loop_and_relay(tmp_path: Path) -> None:
    code = """\
async def relay():
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    for end in (left, right):
        end.setblocking(False)
    await loop.sock_sendall(left, os.urandom(1000))
    assert len(await loop.sock_recv(right, 5000)) == 1000
    socket.send_fds(left, [b"x"], [reader])
    await asyncio.sleep(0.01)
    _, [descriptor], _, _ = socket.recv_fds(right, 1, 1)
    loop.add_reader(descriptor, print)
    os.write(writer, b"y")
    assert os.read(descriptor, 1) == b"y"
asyncio.run(relay())
"""
    done = attempt(tmp_path, "network", code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("mask", [0, 0o077])
def test_the_empty_directory_is_made_for_all_to_see_and_none_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: int
) -> None:
    wanted = tmp_path / "sshoq" / "empty"
    monkeypatch.setattr(sandbox, "SERVICE_USER", "nobody")
    monkeypatch.setattr(sandbox, "EMPTY_DIRECTORY", str(wanted))
    before = os.umask(mask)
    try:
        assert sandbox.prepare_sandbox() is None
    finally:
        assert os.umask(before) == mask
    assert {path.stat().st_mode & 0o777 for path in (wanted, wanted.parent)} == {0o755}


def test_nobody_else_may_write_where_the_empty_directory_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sshoq"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setattr(sandbox, "SERVICE_USER", "nobody")
    monkeypatch.setattr(sandbox, "EMPTY_DIRECTORY", str(folder / "empty"))
    complaint = f"{folder} must be owned by root and not group or world-writable."
    assert sandbox.prepare_sandbox() == complaint


def test_the_empty_directory_must_be_empty_and_roots(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/file").touch()
    done = attempt(tmp_path, "router", "")
    assert "must be empty" in done.stderr
    (tmp_path / "empty/file").unlink()
    (tmp_path / "empty").chmod(0o777)
    done = attempt(tmp_path, "router", "")
    assert done.returncode == 1
    assert os.listdir(tmp_path / "empty") == []
