"""`alias ssh=sshoq` where a path drops UDP: which hosts are tried, and which are ssh's at once."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.accounts import Account
from tests.needs import need_device, need_root, need_tools
from tests.netns import Link, delay_link
from tests.processes import wait_until
from tests.programs import Server, Sshoq, as_user, find_program, quiet_environment
from tests.scenarios.conftest import ServerFactory

pytestmark = pytest.mark.privileged


class Laptop:
    """A user with a home of his own, at one end of a path that can fall silent. The ssh in his PATH
    says that it is the one."""

    def __init__(self, link: Link, server: Server, account: Account) -> None:
        self.silent = account.home / ".cache" / "sshoq" / "silent"
        self.reached = account.home / ".ssh" / "sshoq_reached"
        self.host = f"{Link.address_a} port {server.port}"
        self.user = account.name
        self._link = link
        self._server = server
        self._account = account
        account.write(".ssh/known_hosts", server.known_hosts())
        account.write(".ssh/id_ed25519", account.key.read_text())
        account.write("bin/ssh", "#!/bin/sh\necho by ssh\n", mode=0o755)

    def call(self, *flags: str) -> tuple[str, str]:
        """What the command printed, and what was told."""
        account = self._account
        user = as_user(account.name, account.uid, account.gid)
        environment = quiet_environment(account.home)
        environment["PATH"] = f"{account.home}/bin:{environment['PATH']}"
        words = ["-v", "-p", str(self._server.port), *flags]
        done = subprocess.run(
            [*self._link.prefix_b, *user, find_program("sshoq"), *words, Link.address_a, "id -un"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            cwd="/",
            timeout=60,
            text=True,
        )
        return done.stdout.strip(), done.stderr

    def remember_silent(self, text: str) -> None:
        self._account.write(".cache/sshoq/silent", text)

    def reach(self) -> bool:
        """Without its having been silent."""
        self.silent.unlink(missing_ok=True)
        return self.call()[0] == self.user

    def block(self) -> None:
        """From here on packets vanish at the far side."""
        self._link.run_a(["ip", "link", "set", "wire", "down"], check=True)

    def unblock(self) -> None:
        self._link.run_a(["ip", "link", "set", "wire", "up"], check=True)

    def change_network(self) -> None:
        for words in (
            "address add 10.77.1.2/32 dev wire",
            f"route replace {Link.address_a} dev wire src 10.77.1.2",
        ):
            self._link.run_b(["ip", *words.split()], check=True)


@pytest.fixture
def laptop(
    sshoq: Sshoq, start_server: ServerFactory, fresh_account: Account
) -> Iterator[Laptop]:
    need_root()
    need_device("/dev/net/tun")
    need_tools("ip", "nsenter", "setpriv", "unshare")
    with delay_link() as link:
        server = start_server(
            sshoq, ["URLPath /sshoq-server"], prefix=link.prefix_a, host=Link.address_a
        )
        yield Laptop(link, server, fresh_account)


TRIED = f"debug1: Connecting to {Link.address_a} "
"""Whether it is reached in time is the machine's affair, as the time is short."""


def test_a_silent_host_is_left_to_ssh_until_it_is_known_to_speak(laptop: Laptop) -> None:
    laptop.block()
    output, told = laptop.call()
    assert (output, "left to ssh at once for the next 300 s" in told) == ("by ssh", True)
    laptop.unblock()
    output, told = laptop.call()
    assert (output, f"left to ssh: {laptop.host} did not answer" in told) == ("by ssh", True)
    assert TRIED not in told
    output, told = laptop.call("-o", "Transport=quic")
    assert output == laptop.user, told
    assert TRIED in laptop.call()[1]


def test_a_silent_host_is_tried_again_in_another_network(laptop: Laptop) -> None:
    laptop.block()
    laptop.call()
    assert TRIED not in laptop.call()[1]
    laptop.change_network()
    assert TRIED in laptop.call()[1]
    assert TRIED not in laptop.call()[1]


def test_removing_the_file_forgets(laptop: Laptop) -> None:
    laptop.block()
    laptop.call()
    assert TRIED not in laptop.call()[1]
    laptop.silent.unlink()
    assert TRIED in laptop.call()[1]


def test_a_host_that_has_answered_is_never_left_to_ssh(laptop: Laptop) -> None:
    """Whether it was silent before or falls silent later."""
    laptop.block()
    laptop.call()
    known = laptop.silent.read_text()
    laptop.unblock()
    wait_until(laptop.reach, 60, "the host has answered in time")
    assert laptop.reached.read_text() == f"{laptop.host.replace(' port ', ':')}\n"
    laptop.remember_silent(known)
    laptop.block()
    output, told = laptop.call("-o", "ConnectTimeout=1")
    assert output == ""
    assert f"ssh: connect to host {laptop.host}: Connection timed out\n" in told
    laptop.unblock()
    assert laptop.call()[0] == laptop.user
