"""UDP in batches, over loopback."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator

import pytest

from sshoq.transport import udp
from sshoq.transport.events import plain_address
from sshoq.transport.udp import Batch, RelayedSocket, UdpSocket, UdpTransport

ROUNDS = 2000


def bound_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.fixture
def pair() -> Iterator[tuple[UdpSocket, UdpSocket]]:
    """Two sockets connected to each other."""
    left, right = bound_socket(), bound_socket()
    left.connect(right.getsockname())
    right.connect(left.getsockname())
    ends = UdpSocket(left), UdpSocket(right)
    yield ends
    for end in ends:
        end.close()


def read_all(end: UdpSocket, count: int) -> list[bytes]:
    """Loopback delivers at once, so a bounded number of reads has all there will be."""
    got: list[bytes] = []
    for _ in range(ROUNDS):
        for _, datagrams in end.receive():
            got += datagrams
        if len(got) >= count:
            break
    return got


def mixed_datagrams() -> list[bytes]:
    sizes = [1200] * 70 + [900, 1200, 1, 1300, 1300, 5, 5, 1200, 60000, 2, 1200]
    return [os.urandom(size) for size in sizes]


@pytest.mark.parametrize("segmentation", [True, False])
@pytest.mark.parametrize("coalescing", [True, False])
def test_boundaries_and_order_survive(segmentation: bool, coalescing: bool) -> None:
    left, right = bound_socket(), bound_socket()
    left.connect(right.getsockname())
    sender = UdpSocket(left, segmentation=segmentation)
    receiver = UdpSocket(right, coalescing=coalescing)
    sent = mixed_datagrams()
    sender.send(sent)
    assert read_all(receiver, len(sent)) == sent
    sender.close()
    receiver.close()


def test_batches_are_told_apart_by_sender() -> None:
    receiver = UdpSocket(bound_socket())
    address = receiver.socket.getsockname()
    one, two = bound_socket(), bound_socket()
    for sock in (one, two):
        sock.connect(address)
        UdpSocket(sock).send([b"first", b"secnd"])
    batches: dict[object, list[bytes]] = {}
    for _ in range(ROUNDS):
        for sender, datagrams in receiver.receive():
            batches.setdefault(sender, []).extend(datagrams)
        if sum(map(len, batches.values())) == 4:
            break
    assert batches == {
        one.getsockname(): [b"first", b"secnd"],
        two.getsockname(): [b"first", b"secnd"],
    }
    for sock in (one, two):
        sock.close()
    receiver.close()


def test_a_connected_socket_still_sends_elsewhere(pair: tuple[UdpSocket, UdpSocket]) -> None:
    elsewhere = UdpSocket(bound_socket())
    pair[0].send([b"abc", b"def"], elsewhere.socket.getsockname())
    assert read_all(elsewhere, 2) == [b"abc", b"def"]
    elsewhere.close()


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (("192.0.2.1", 5), ("192.0.2.1", 5)),
        (("2001:db8::1", 5, 0, 0), ("2001:db8::1", 5)),
        (("fe80::1", 5, 0, 3), ("fe80::1%3", 5)),
        (("fe80::1%eth0", 5, 0, 3), ("fe80::1%eth0", 5)),
    ],
)
def test_a_peer_has_one_address(raw: tuple[str, int], plain: tuple[str, int]) -> None:
    assert plain_address(raw) == plain


def test_ipv6_peers_are_known_by_host_and_port() -> None:
    ends = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2)]
    for end in ends:
        end.bind(("::1", 0))
    port = ends[1].getsockname()[1]
    sender = UdpSocket(ends[0])
    receiver = UdpSocket(ends[1])
    sender.send([b"abc"], ("::1", port))
    ((source, datagrams),) = [batch for _ in range(ROUNDS) for batch in receiver.receive()]
    assert (source, datagrams) == (("::1", ends[0].getsockname()[1]), [b"abc"])
    receiver.socket.connect(source)
    receiver.find_peer()
    assert receiver.peer == source
    receiver.close()
    sender.close()


def test_while_somebody_connects_the_socket_anew_nothing_goes_astray(
    pair: tuple[UdpSocket, UdpSocket],
) -> None:
    old = pair[0].socket.getpeername()
    elsewhere = UdpSocket(bound_socket())
    new = elsewhere.socket.getsockname()
    pair[0].forget_peer()
    pair[0].send([b"before"], new)
    pair[0].socket.connect(new)
    pair[0].send([b"between"], new)
    pair[0].send([b"to the old place"], old)
    elsewhere.send([b"back"], pair[0].socket.getsockname())
    ((source, _),) = [batch for _ in range(ROUNDS) for batch in pair[0].receive()]
    pair[0].find_peer()
    pair[0].send([b"after"], new)
    assert read_all(elsewhere, 3) == [b"before", b"between", b"after"]
    assert read_all(pair[1], 1) == [b"to the old place"]
    assert source == pair[0].peer == new
    elsewhere.close()


class Reluctant(UdpSocket):
    """Refuses what a test wants refused, as kernels do."""

    failures: list[OSError]

    def _sendmsg(self, run, control, target):  # type: ignore[no-untyped-def]  # as in the class above
        if self.failures:
            raise self.failures.pop(0)
        super()._sendmsg(run, control, target)


def reluctant(end: UdpSocket, *failures: OSError) -> Reluctant:
    sock = Reluctant(end.socket)
    sock.failures = list(failures)
    return sock


def test_without_segmentation_in_the_kernel_datagrams_go_one_by_one(
    pair: tuple[UdpSocket, UdpSocket],
) -> None:
    sender = reluctant(pair[0], OSError(errno.EIO, "no checksum offload"))
    sent = [bytes([n]) * 1200 for n in range(10)]
    sender.send(sent)
    assert not sender.segmentation
    assert read_all(pair[1], 10) == sent


def test_a_full_socket_keeps_the_rest_for_flush(pair: tuple[UdpSocket, UdpSocket]) -> None:
    sender = reluctant(pair[0], BlockingIOError(), BlockingIOError())
    sender.send([b"one", b"two"])
    sender.send([b"three"])
    assert sender.backlog == 3
    assert not sender.flush()
    assert sender.flush()
    assert read_all(pair[1], 3) == [b"one", b"two", b"three"]


def test_the_backlog_is_bounded(pair: tuple[UdpSocket, UdpSocket]) -> None:
    sender = reluctant(pair[0], BlockingIOError())
    sender.send([b"x"] * (3 * udp.MAX_BACKLOG))
    assert sender.backlog == udp.MAX_BACKLOG


def test_a_datagram_too_large_for_the_path_is_lost_quietly(
    pair: tuple[UdpSocket, UdpSocket],
) -> None:
    sender = reluctant(pair[0], OSError(errno.EMSGSIZE, "too long"))
    sender.send([b"lost"])
    sender.send([b"arrives"])
    assert read_all(pair[1], 1) == [b"arrives"]


def test_a_relayed_socket_has_as_much_room_either_way() -> None:
    """Who has the other end hands on in one go what came while the machine was busy."""
    relayed, end = RelayedSocket.pair(("192.0.2.1", 443))
    with end:
        rooms = {
            one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) for one in (relayed.socket, end)
        }
        assert len(rooms) == 1
        relayed.send([b"there"], ("192.0.2.1", 443))
        assert end.recv(100) == b"there"
        end.send(b"back")
        assert relayed.receive() == [(("192.0.2.1", 443), [b"back"])]
        relayed.close()


def test_a_relayed_socket_whose_other_end_has_gone_is_no_error() -> None:
    relayed, end = RelayedSocket.pair(("192.0.2.1", 443))
    end.close()
    for _ in range(3):
        relayed.send([b"there", b"and more"])
    assert relayed.backlog == 0
    relayed.close()


def test_a_closed_port_is_told_and_stops_nothing() -> None:
    gone = bound_socket()
    address = gone.getsockname()
    gone.close()
    sender = UdpSocket.connect(address, socket.AF_INET)
    sender.send([b"anybody?"])
    sender.send([b"hello?"])
    sender.receive()
    error = sender.take_error()
    assert isinstance(error, ConnectionRefusedError)
    assert sender.take_error() is None
    sender.close()


def test_in_a_loop_batches_arrive_and_closing_leaves_it(
    pair: tuple[UdpSocket, UdpSocket],
) -> None:
    async def exchange() -> list[bytes]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[list[Batch]] = asyncio.Queue()
        told: list[OSError] = []
        receiver = UdpTransport(loop, pair[1], arrived.put_nowait, told.append)
        sender = UdpTransport(
            loop, reluctant(pair[0], BlockingIOError()), lambda batches: None, told.append
        )
        sender.send([(pair[1].socket.getsockname(), [b"a" * 100] * 5)])
        got: list[bytes] = []
        while len(got) < 5:
            for _, datagrams in await asyncio.wait_for(arrived.get(), 10):
                got += datagrams
        sender.close()
        receiver.close()
        assert not told
        return got

    assert asyncio.run(exchange()) == [b"a" * 100] * 5
    assert pair[0].fileno() == -1
