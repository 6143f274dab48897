"""What is asked of the real machine."""

import os
import socket

import pytest

from sshoq.config.surroundings import (
    ResolveError,
    Surroundings,
    canonical_address,
    interface_addresses,
    look_up,
)
from sshoq.config.usage import Notes, UsageError, make_visible, usage_error


def test_addresses_and_names_are_told_apart() -> None:
    assert canonical_address("127.1") == "127.0.0.1"
    assert canonical_address("0:0::1") == "::1"
    assert canonical_address("0x7f.1") == "127.0.0.1"
    for name in ("web", "1.2.3.4.5", "1web", "", "é1", "::g"):
        assert canonical_address(name) is None


def test_local_addresses_are_found_with_the_loopback_up() -> None:
    addresses = interface_addresses()
    assert all(canonical_address(address) is not None for address in addresses)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", 9))
        assert probe.getsockname()[0] in addresses


def test_the_resolver_knows_addresses_and_says_no() -> None:
    answer = look_up("127.0.0.1", 22, "inet")
    assert answer is not None
    assert answer.addresses == ("127.0.0.1",)
    with pytest.raises(ResolveError, match="Address family"):
        look_up("127.0.0.1", 22, "inet6")


def test_commands_run_without_input_or_output() -> None:
    surroundings = Surroundings({"SHELL": "/bin/sh"}, user="u", home="/", uid=0)
    assert surroundings.run('test -z "$(cat)" && echo unseen && exit 3') == 3
    assert surroundings.run("kill -9 $$") == -9


def test_homes_of_others() -> None:
    surroundings = Surroundings({}, user="u", home="/h", uid=0)
    assert surroundings.home_of("root") == "/root"
    assert surroundings.home_of("no-such-user") is None
    assert surroundings.shell == "/bin/sh"
    assert surroundings.host == os.uname().nodename


def test_lines_are_kept_as_far_as_the_level_goes() -> None:
    notes = Notes()
    notes.add(4, "hidden")
    notes.error("seen")
    notes.level = 4
    notes.add(4, "debugging")
    error = notes.fatal("the end")
    assert error.lines == ("seen", "debug1: debugging", "the end")
    notes.level = -1
    assert "unheard" not in notes.fatal("unheard").lines
    assert isinstance(usage_error(notes), UsageError)


def test_terminals_are_shown_no_control_characters() -> None:
    assert make_visible("plain\ttext") == "plain\ttext"
    assert make_visible("a\x1b\\é\udcff") == "a\\033\\\\\\303\\251\\377"
