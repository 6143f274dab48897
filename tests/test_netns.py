"""The delay link: what the scenarios and the bench measure on must itself be right."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.needs import need_device, need_root, need_tools
from tests.netns import Direction, Link, Path, delay_link, row_of_networks

SECOND = 10**9


def test_a_packet_comes_out_after_the_delay_and_not_before() -> None:
    direction = Direction(Path(delay=0.05), seed=1)
    direction.accept(b"packet", now=0)
    assert direction.next_due() == SECOND // 20
    assert list(direction.due(SECOND // 20 - 1)) == []
    assert list(direction.due(SECOND // 20)) == [b"packet"]
    assert direction.next_due() is None


def test_packets_keep_their_order() -> None:
    direction = Direction(Path(delay=0.01, rate=1e6), seed=1)
    packets = [bytes([number]) for number in range(100)]
    for packet in packets:
        direction.accept(packet, now=5)
    assert list(direction.due(SECOND)) == packets


def test_the_rate_spreads_packets_out() -> None:
    direction = Direction(Path(delay=0.0, rate=1000.0), seed=1)
    direction.accept(bytes(500), now=0)
    direction.accept(bytes(500), now=0)
    assert len(list(direction.due(SECOND // 2))) == 1
    assert len(list(direction.due(SECOND - 1))) == 0
    assert len(list(direction.due(SECOND))) == 1


def test_a_full_queue_drops_the_newest() -> None:
    direction = Direction(Path(delay=0.0, rate=1000.0, queue=1500), seed=1)
    for number in range(10):
        direction.accept(bytes([number]) * 1000, now=0)
    assert [packet[0] for packet in direction.due(100 * SECOND)] == [0, 1]


def test_loss_takes_its_share_and_the_same_each_time() -> None:
    arrived = []
    for _ in range(2):
        direction = Direction(Path(delay=0.0, loss=0.3), seed=7)
        for number in range(1000):
            direction.accept(number.to_bytes(2, "big"), now=0)
        arrived.append(list(direction.due(0)))
    assert arrived[0] == arrived[1]
    assert 600 < len(arrived[0]) < 800


def ping(link: Link, address: str, count: int = 5) -> subprocess.CompletedProcess[str]:
    command = ["ping", "-n", "-c", str(count), "-i", "0.01", "-W", "2", address]
    return link.run_a(command, capture_output=True, text=True, timeout=30)


@pytest.fixture
def usable() -> None:
    need_root()
    need_device("/dev/net/tun")
    need_tools("ip", "nsenter", "ping")


@pytest.mark.privileged
@pytest.mark.usefixtures("usable")
class TestLink:
    @pytest.mark.parametrize("address", [Link.address_b, Link.address6_b])
    def test_the_round_trip_takes_at_least_the_given_time(self, address: str) -> None:
        with delay_link(rtt=0.05) as link:
            done = ping(link, address)
        assert " 0% packet loss" in done.stdout, done.stdout + done.stderr
        shortest = re.search(r"min/avg/max/mdev = ([\d.]+)", done.stdout)
        assert shortest is not None
        assert float(shortest[1]) >= 50.0

    def test_a_link_that_loses_all_is_silent(self) -> None:
        with delay_link(loss=1.0) as link:
            done = ping(link, link.address_b, count=2)
        assert "100% packet loss" in done.stdout

    def test_the_namespaces_see_nothing_but_each_other(self) -> None:
        with delay_link() as link:
            done = link.run_b(["ip", "-br", "link"], capture_output=True, text=True, check=True)
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["lo", "wire"]

    def test_two_links_do_not_disturb_each_other(self) -> None:
        with delay_link() as one, delay_link(loss=1.0) as other:
            assert " 0% packet loss" in ping(one, one.address_b).stdout
            assert "100% packet loss" in ping(other, other.address_b, count=2).stdout


@pytest.mark.privileged
def test_a_row_sees_its_neighbours_and_nobody_else() -> None:
    need_root()
    need_tools("ip", "nsenter", "ping")

    def sees(network: int, other: int) -> bool:
        command = [*row.prefix(network), "ping", "-c", "1", "-W", "1", row.address(other)]
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0

    with row_of_networks(3) as row:
        assert sees(0, 1)
        assert sees(1, 2)
        assert not sees(0, 2)
        assert not sees(2, 1), "the address on that side is another"
