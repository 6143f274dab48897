"""The way through jump hosts, as configuration has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sshoq.client.log import Failure
from sshoq.client.route import MAX_HOPS, find_hops
from sshoq.config.resolve import Invocation, resolve


def way(tmp_path: Path, config: str, *words: str) -> list[Invocation]:
    path = tmp_path / "config"
    path.write_text(config)
    return find_hops(resolve(["-F", str(path), *words], {"HOME": "/nonexistent"}), {})


def places(hops: list[Invocation]) -> list[str]:
    return [f"{hop.options.user}@{hop.options.hostname}:{hop.options.quic_port}" for hop in hops]


def test_without_a_jump_host_there_is_none(tmp_path: Path) -> None:
    assert way(tmp_path, "", "target") == []
    assert way(tmp_path, "ProxyJump a\n", "-J", "none", "target") == []


def test_hops_are_in_order_with_their_own_configuration(tmp_path: Path) -> None:
    config = "Host a\n HostName a.test\n User ann\nHost b\n Port 4433\n User bob\n"
    hops = way(tmp_path, config, "-J", "a,carl@b", "target")
    assert places(hops) == ["ann@a.test:443", "carl@b:4433"]
    assert all(hop.options.session_type == "none" for hop in hops)


def test_nothing_of_the_destination_is_a_hops(tmp_path: Path) -> None:
    """As with ssh: the command line but for -F is about the destination."""
    config = "Host a\n LocalForward 1234 x:1\n ForwardAgent yes\n RemoteCommand uptime\n"
    words = ["-L", "1235:x:1", "-l", "root", "-J", "me@a", "target", "id"]
    [hop] = way(tmp_path, config, *words)
    options = hop.options
    assert options.user == "me"
    assert (options.local_forwards, options.forward_agent, options.remote_command) == (
        (), False, None
    )  # fmt: skip


def test_the_way_to_the_first_hop_is_its_own_business(tmp_path: Path) -> None:
    config = "Host *\n User me\nHost a\n ProxyJump z\nHost b\n ProxyJump y\n"
    assert places(way(tmp_path, config, "-J", "a,b", "target")) == [
        "me@z:443", "me@a:443", "me@b:443"
    ]  # fmt: skip


def test_gos_spelling(tmp_path: Path) -> None:
    words = ["-insecure", "-i", "/etc/hostname", "-proxy-jump", "me@a:4433/path", "target"]
    [hop] = way(tmp_path, "", *words)
    assert places([hop]) == ["me@a:4433"]
    assert hop.options.url_path == "/path"
    assert hop.options.insecure
    assert hop.options.identity_files == ("/etc/hostname",)
    [hop] = way(tmp_path, "Host target\n UDPProxyJump me@b\n", "target")
    assert places([hop]) == ["me@b:443"]


def test_a_loop_is_told(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="jumphost loop via a"):
        way(tmp_path, "Host a\n ProxyJump a\n", "-J", "a", "target")
    many = ",".join(f"h{number}" for number in range(MAX_HOPS + 1))
    with pytest.raises(Failure, match="more than"):
        way(tmp_path, "", "-J", many, "target")


def test_a_bad_hop_is_told(tmp_path: Path) -> None:
    with pytest.raises(Failure):
        way(tmp_path, "", "-proxy-jump", "@", "target")
