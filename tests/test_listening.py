"""Listening sockets of forwardings: addresses, ports, and what Unix sockets leave behind."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from sshoq.listening import (
    LOOPBACK,
    WILDCARD,
    UnixListener,
    addresses_for,
    is_multicast,
    open_listeners,
)
from tests.needs import need_root, need_tools

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
PATIENCE = 30


@pytest.mark.parametrize(
    ("host", "gateway", "addresses"),
    [
        (None, False, LOOPBACK),
        (None, True, WILDCARD),
        ("", False, WILDCARD),
        ("*", False, WILDCARD),
        ("localhost", True, LOOPBACK),
        ("192.0.2.1", False, ("192.0.2.1",)),
        ("name", True, ("name",)),
    ],
)
def test_what_a_bind_address_stands_for(
    host: str | None, gateway: bool, addresses: tuple[str, ...]
) -> None:
    assert addresses_for(host, gateway=gateway) == addresses


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_all_addresses_get_one_port(kind: socket.SocketKind) -> None:
    with ExitStack() as stack:
        sockets = open_listeners(("127.0.0.1", "127.0.0.2"), 0, kind, pytest.fail, pytest.fail)
        for listener in sockets:
            stack.enter_context(listener)
        names = [listener.getsockname() for listener in sockets]
        assert [name[0] for name in names] == ["127.0.0.1", "127.0.0.2"]
        assert len({name[1] for name in names}) == 1
        assert not any(listener.getblocking() for listener in sockets)


def test_a_burst_of_callers_finds_room() -> None:
    """More than OpenSSH has room for: the kernel may drop one that takes himself for connected."""
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with ExitStack() as stack:
        [listener] = open_listeners(("127.0.0.1",), 0, TCP, pytest.fail, pytest.fail)
        stack.enter_context(listener)
        for _ in range(min(200, most)):
            stack.enter_context(socket.create_connection(listener.getsockname(), PATIENCE))
        for _ in range(min(200, most)):
            stack.enter_context(listener.accept()[0])


@pytest.mark.parametrize("is_last", [False, True])
def test_one_address_is_enough_and_the_last_is_missed_most(is_last: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        complaints: list[str] = []
        mentions: list[str] = []
        addresses = ("127.0.0.2", "127.0.0.1") if is_last else ("127.0.0.1", "127.0.0.2")
        [listener] = open_listeners(addresses, port, TCP, complaints.append, mentions.append)
        with listener:
            assert listener.getsockname() == ("127.0.0.2", port)
        told, silent = (complaints, mentions) if is_last else (mentions, complaints)
        assert told == [f"bind [127.0.0.1]:{port}: Address already in use"]
        assert silent == []


def test_no_address_is_an_error() -> None:
    with pytest.raises(OSError, match="assign") as caught:
        open_listeners(("192.0.2.1",), 0, TCP, lambda text: None, pytest.fail)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_a_unix_socket_has_its_mask_and_takes_its_name_along(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = UnixListener(str(path), 0o117, unlink=False)
    with listener.socket:
        status = path.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert status.st_mode & 0o777 == 0o660
        listener.remove()
    assert not path.exists()


def test_a_name_that_means_something_else_by_now_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = UnixListener(str(path), 0o177, unlink=False)
    second = UnixListener(str(path), 0o177, unlink=True)
    with first.socket, second.socket:
        first.remove()
        assert path.exists()
        second.remove()
        path.write_text("mine")
        second.remove()
    assert path.read_text() == "mine"


def test_a_name_that_is_there_is_only_replaced_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.touch()
    with pytest.raises(OSError, match="in use"):
        UnixListener(str(path), 0o177, unlink=False)
    assert path.exists()
    listener = UnixListener(str(path), 0o177, unlink=True)
    listener.socket.close()
    listener.remove()


def test_the_umask_is_as_before(tmp_path: Path) -> None:
    before = os.umask(0o22)
    try:
        listener = UnixListener(str(tmp_path / "s"), 0o177, unlink=False)
        listener.socket.close()
        with pytest.raises(OSError, match="No such file"):
            UnixListener(str(tmp_path / "no/s"), 0o177, unlink=False)
        assert os.umask(0o22) == 0o22
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("224.0.0.1", True), ("239.255.255.255", True), ("ff02::1%lo", True), ("ff15::7", True),
        ("223.255.255.255", False), ("240.0.0.1", False), ("fe80::1", False), ("::", False),
        ("", False), ("239.test", False),
    ],
)  # fmt: skip
def test_groups_are_told_by_their_address(ip: str, expected: bool) -> None:
    assert is_multicast(ip) is expected


ON_LOOPBACK_ALONE = """\
import socket
from sshoq.listening import open_listeners
try:
    open_listeners(["239.192.7.7"], 5555, socket.SOCK_DGRAM, print, print)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.privileged
def test_a_group_needs_an_interface_besides_loopback() -> None:
    """Else nobody would ever be heard, and nobody be told."""
    need_root()
    need_tools("unshare", "ip")
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
    done = subprocess.run(
        [*command, sys.executable, "-c", ON_LOOPBACK_ALONE],
        capture_output=True, timeout=60, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.stdout.decode().splitlines() == [
        "bind [239.192.7.7]:5555: No such device", "No such device"
    ]
