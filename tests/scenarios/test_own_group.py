"""What a group may write is believed where nobody but the owner is in it: Debian's rule in OpenSSH,
which ours follow, place by place and group by group.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.janitor import run_account_tool
from tests.needs import give_up
from tests.programs import Client, Programs, Server, as_user, quiet_environment
from tests.scenarios.conftest import ClientFactory

pytestmark = pytest.mark.privileged

Owners = dict[str, Account]

GROUPS = {
    "his own": True,
    "his own that lists him": True,
    "with a second member": False,
    "the first one of somebody else, too": False,
}


@pytest.fixture(scope="module")
def owners(account_factory: Callable[..., Account]) -> Owners:
    """Users by what their own groups have become."""
    owners = {name: account_factory() for name in GROUPS}
    groups = [owner.name for owner in owners.values()]
    run_account_tool("usermod", "--append", "--groups", groups[1], groups[1])
    account_factory(groups=(groups[2],))
    guest = account_factory().name
    run_account_tool("usermod", "--gid", groups[3], guest)
    run_account_tool("groupdel", guest)  # userdel leaves a group that is no longer the user's
    return owners


@pytest.fixture
def owner(owners: Owners) -> Account:
    return owners["his own"]


@pytest.fixture(autouse=True)
def _have_the_rule(programs: Programs) -> None:
    if programs.name == "openssh":
        done = subprocess.run([programs.client(), "-V"], capture_output=True, text=True)
        if not {"Debian", "Ubuntu"} & set(done.stderr.replace("-", " ").split()):
            give_up("needs an OpenSSH with Debian's rule for groups")


def access_list(uid: int) -> bytes:
    """Read and write for the owner, for that user and for the group."""
    entries = [(0x01, 6, -1), (0x02, 6, uid), (0x04, 4, -1), (0x10, 6, -1), (0x20, 4, -1)]
    packed = (struct.pack("<HHi", *entry) for entry in entries)
    return struct.pack("<I", 2) + b"".join(packed)


def let_another_write(path: Path, uid: int) -> None:
    try:
        os.setxattr(path, "system.posix_acl_access", access_list(uid))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        give_up("needs a file system with access lists")


class TestClient:
    @staticmethod
    def believes(programs: Programs, owner: Account) -> bool:
        """Whether the settings count that the owner's configuration ends in."""
        done = subprocess.run(
            [*as_user(owner.name, owner.uid, owner.gid), programs.client(), "-G", "host"],
            env=quiet_environment(owner.home),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode == 0:
            assert "user believed\n" in done.stdout
            return True
        assert "Bad owner or permissions on " in done.stderr
        return False

    @pytest.mark.parametrize("group", GROUPS)
    def test_a_configuration_that_a_group_may_write(
        self, programs: Programs, owners: Owners, group: str
    ) -> None:
        owner = owners[group]
        path = owner.write(".ssh/config", "User believed\n", 0o664)
        assert self.believes(programs, owner) is GROUPS[group]
        path.chmod(0o644)
        assert self.believes(programs, owner)

    @pytest.mark.parametrize("mode", [0o666, 0o646, 0o602])
    def test_what_all_may_write_is_refused(
        self, programs: Programs, owner: Account, mode: int
    ) -> None:
        owner.write(".ssh/config", "User believed\n", mode)
        assert not self.believes(programs, owner)

    @pytest.mark.parametrize("group", GROUPS)
    def test_an_included_file(self, programs: Programs, owners: Owners, group: str) -> None:
        owner = owners[group]
        owner.write(".ssh/config", "Include more\n")
        owner.write(".ssh/more", "User believed\n", 0o664)
        assert self.believes(programs, owner) is GROUPS[group]

    @pytest.mark.parametrize("group", GROUPS)
    def test_where_a_link_leads(self, programs: Programs, owners: Owners, group: str) -> None:
        owner = owners[group]
        path = owner.write("settings", "User believed\n", 0o664)
        link = owner.home / ".ssh/config"
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        try:
            assert self.believes(programs, owner) is GROUPS[group]
        finally:
            link.unlink()

    def test_a_group_that_is_not_the_owners(self, programs: Programs, owners: Owners) -> None:
        """Somebody else's, root's, one without members and one that does not exist."""
        owner, other = owners["his own"], owners["his own that lists him"]
        path = owner.write(".ssh/config", "User believed\n", 0o664)
        for gid in (other.gid, 0, 0x7FFF_FFF0):
            os.chown(path, owner.uid, gid)
            assert not self.believes(programs, owner), gid

    def test_roots_file_in_roots_group(self, programs: Programs, owner: Account) -> None:
        path = owner.write(".ssh/config", "User believed\n", 0o664)
        os.chown(path, 0, 0)
        assert not self.believes(programs, owner)
        path.chmod(0o644)
        assert self.believes(programs, owner)
        path.unlink()

    def test_roots_file_in_the_owners_group(self, programs: Programs, owner: Account) -> None:
        """Ours believe the group of the user's own files alone."""
        path = owner.write(".ssh/config", "User believed\n", 0o664)
        os.chown(path, 0, owner.gid)
        assert self.believes(programs, owner) is (programs.name == "openssh")
        path.unlink()

    def test_an_access_list_that_names_another(self, programs: Programs, owners: Owners) -> None:
        """OpenSSH overlooks it, and believes what the other may write."""
        owner = owners["his own"]
        path = owner.write(".ssh/config", "User believed\n", 0o664)
        assert self.believes(programs, owner)
        let_another_write(path, owners["with a second member"].uid)
        assert self.believes(programs, owner) is (programs.name == "openssh")
        path.unlink()


@contextlib.contextmanager
def modes(owner: Account, modes: dict[str, int]) -> Iterator[None]:
    """Of places in the home, while it lasts."""
    paths = {owner.home / name: mode for name, mode in modes.items()}
    before = {path: path.stat().st_mode & 0o7777 for path in paths}
    try:
        for path, mode in paths.items():
            path.chmod(mode)
        yield
    finally:
        for path, mode in before.items():
            path.chmod(mode)


class TestServer:
    @staticmethod
    def lets_in(client: Client) -> bool:
        done = client.run("true")
        assert done.returncode == 0 or b"Permission denied" in done.stderr, done.stderr
        return done.returncode == 0

    @pytest.mark.parametrize(
        "writable",
        [
            {".ssh/authorized_keys": 0o664},
            {".ssh": 0o775},
            {"": 0o775},
            {"": 0o775, ".ssh": 0o775, ".ssh/authorized_keys": 0o664},
        ],
        ids=["the file", "its directory", "the home", "all of them"],
    )
    @pytest.mark.parametrize("group", GROUPS)
    def test_keys_that_a_group_may_write(
        self,
        server: Server,
        connect: ClientFactory,
        owners: Owners,
        group: str,
        writable: dict[str, int],
    ) -> None:
        owner = owners[group]
        client = connect(server, owner)
        with modes(owner, writable):
            assert self.lets_in(client) is GROUPS[group]
        assert self.lets_in(client)

    @pytest.mark.parametrize(
        "writable",
        [{".ssh/authorized_keys": 0o666}, {".ssh": 0o777}, {"": 0o777}],
        ids=["the file", "its directory", "the home"],
    )
    def test_what_all_may_write_is_refused(
        self, server: Server, connect: ClientFactory, owner: Account, writable: dict[str, int]
    ) -> None:
        with modes(owner, writable):
            assert not self.lets_in(connect(server, owner))

    def test_where_a_link_leads(
        self, server: Server, connect: ClientFactory, owners: Owners
    ) -> None:
        for name, own in GROUPS.items():
            owner = owners[name]
            kept = owner.write("keys/mine", owner.public_key + "\n", 0o664)
            kept.parent.chmod(0o775)
            owner.authorized_keys.unlink()
            owner.authorized_keys.symlink_to(kept)
            try:
                assert self.lets_in(connect(server, owner)) is own, name
            finally:
                owner.authorized_keys.unlink()
                owner.write(".ssh/authorized_keys", owner.public_key + "\n")

    def test_roots_file_in_roots_group(
        self, server: Server, connect: ClientFactory, owner: Account
    ) -> None:
        os.chown(owner.authorized_keys, 0, 0)
        try:
            owner.authorized_keys.chmod(0o664)
            assert not self.lets_in(connect(server, owner))
            owner.authorized_keys.chmod(0o644)
            assert self.lets_in(connect(server, owner))
        finally:
            owner.write(".ssh/authorized_keys", owner.public_key + "\n")
