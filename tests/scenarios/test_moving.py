"""A client whose address changes: the conversation goes on, and the kernel gives its packets to the
connection's own socket again.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.processes import processes_of, wait_until
from tests.programs import Client, Sshoq
from tests.scenarios.conftest import ServerFactory

pytestmark = pytest.mark.privileged

PATIENCE = 30.0


class AddressTranslator:
    """A relay between client and server that can change the port the server sees, as a NAT that
    has lost its table does."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._inner.bind(("127.0.0.1", 0))
        self._client: tuple[str, int] | None = None
        self._stop, self._stopped = socket.socketpair()
        self._opened = [self._inner, self._stopped]
        self._outer = self._new_outer()
        self._thread = threading.Thread(target=self._relay)
        self._thread.start()

    def _new_outer(self) -> socket.socket:
        outer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        outer.connect(self._server)
        self._opened.append(outer)
        return outer

    @property
    def port(self) -> int:
        return int(self._inner.getsockname()[1])

    @property
    def outer_port(self) -> int:
        return int(self._outer.getsockname()[1])

    def move(self) -> None:
        """What still comes to the old port is lost; the relay thread looks at the new one at the
        next packet of the client's."""
        self._outer = self._new_outer()

    def _relay(self) -> None:
        while True:
            outer = self._outer
            ready, _, _ = select.select([self._inner, outer, self._stopped], [], [])
            if self._stopped in ready:
                return
            if self._inner in ready:
                datagram, self._client = self._inner.recvfrom(65536)
                self._outer.send(datagram)
            if outer in ready and self._client is not None:
                self._inner.sendto(outer.recv(65536), self._client)

    def close(self) -> None:
        self._stop.close()
        self._thread.join()
        for one in self._opened:
            one.close()


@pytest.fixture
def client(
    sshoq: Sshoq, start_server: ServerFactory, account: Account, tmp_path: Path
) -> Client:
    return Client(start_server(sshoq), account.name, account.key, tmp_path)


@pytest.fixture
def translator(client: Client) -> Iterator[AddressTranslator]:
    translator = AddressTranslator((client.server.host, client.server.port))
    yield translator
    translator.close()


def connected_ports(local: int) -> set[int]:
    """The peers of the connected UDP sockets at that port."""
    rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return {
        int(row[2].rpartition(":")[2], 16) for row in rows if row[1].endswith(f":{local:04X}")
    } - {0}


def test_a_client_that_starts_anew_at_the_address_of_one_that_vanished_takes_its_place(
    client: Client, translator: AddressTranslator, fresh_account: Account, tmp_path: Path
) -> None:
    """As behind a translator that gives the port to the next one. The server has heard of no end,
    and the kernel gives all that comes from there to the first one's socket.
    """
    flags = ["-o", f"Port={translator.port}", "-o", "StrictHostKeyChecking=no"]
    first = Client(client.server, fresh_account.name, fresh_account.key, tmp_path)
    vanished = first.start("echo here; exec sleep 600", flags=flags)
    assert vanished.stdout is not None
    assert vanished.stdout.readline() == b"here\n"
    vanished.kill()
    vanished.communicate(timeout=PATIENCE)
    for _ in range(2):
        assert client.output("echo anew", flags=flags) == b"anew\n"
    wait_until(
        lambda: not processes_of(fresh_account.uid), PATIENCE, "the first one's session is over"
    )


def test_a_client_that_moves_keeps_its_session_and_gets_its_socket_back(
    client: Client, translator: AddressTranslator
) -> None:
    flags = ["-o", f"Port={translator.port}", "-o", "StrictHostKeyChecking=no"]
    process = client.start("cat", flags=flags)
    assert process.stdin is not None
    assert process.stdout is not None
    for line in (b"at home\n", b"away\n", b"still away\n"):
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline() == line
        if line == b"at home\n":
            translator.move()
        else:
            wait_until(
                lambda: connected_ports(client.server.port) == {translator.outer_port},
                PATIENCE,
                "the connection's socket is connected to the new address",
            )
    process.stdin.close()
    assert process.wait(PATIENCE) == 0
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()
