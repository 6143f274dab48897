"""UseDNS: rules that name the client's host, with both pairs of programs, whose servers find their
own /etc/hosts.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.accounts import Account, make_key, make_pam_service
from tests.janitor import Janitor
from tests.needs import need_root, need_tools
from tests.processes import wait_until
from tests.programs import Client, Programs, Server
from tests.scenarios.conftest import ClientFactory, ServerFactory

pytestmark = pytest.mark.privileged

NICE, NASTY, NAMELESS = "127.0.0.9", "127.0.0.8", "127.0.0.7"
HOSTS = f"127.0.0.1 localhost\n{NICE} Nice.Example.TEST\n{NASTY} 198.51.100.7\n"

SHOWING = """\
auth required pam_permit.so
account required pam_permit.so
session required pam_exec.so {directory}/show
"""


def with_hosts(directory: Path) -> list[str]:
    """Words that run a server where these are the names of addresses, and no name server is."""
    need_root()
    need_tools("unshare", "mount")
    files = {"hosts": HOSTS, "nsswitch.conf": "hosts: files\npasswd: files\ngroup: files\n"}
    for name, content in files.items():
        (directory / name).write_text(content)
    binds = "; ".join(f"mount --bind {directory}/{name} /etc/{name}" for name in files)
    script = f'set -e; {binds}; exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


@pytest.fixture
def named_server(programs: Programs, start_server: ServerFactory, tmp_path: Path) -> Server:
    return start_server(
        programs,
        ["UseDNS yes", "Match Host nice.example.test", "SetEnv FROM=nice"],
        prefix=with_hosts(tmp_path),
    )


def come_from(client: Client, address: str) -> bytes:
    """What the host's name let the client have; nothing where that was refused."""
    return client.run("echo in $FROM", flags=["-b", address]).stdout


def wait_for_log(server: Server, line: str) -> None:
    wait_until(lambda: line in server.log(), 30, f"log of {line!r}")


@pytest.mark.parametrize(
    ("address", "said"), [(NICE, b"in nice\n"), (NASTY, b"in\n"), (NAMELESS, b"in\n")]
)
def test_match_host_sees_the_name(
    named_server: Server, account: Account, connect: ClientFactory, address: str, said: bytes
) -> None:
    assert come_from(connect(named_server, account), address) == said


def test_a_number_for_a_name_is_told(
    named_server: Server, account: Account, connect: ClientFactory
) -> None:
    come_from(connect(named_server, account), NASTY)
    wait_for_log(
        named_server, f'Nasty PTR record "198.51.100.7" is set up for {NASTY}, ignoring'
    )


def test_keys_may_be_for_a_host(
    named_server: Server, account: Account, connect: ClientFactory, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "bound")
    public = Path(f"{key}.pub").read_text()
    with account.authorized_keys.open("a") as lines:
        lines.write(f'from="*.example.test" {public}')
    client = connect(named_server, account, key=key)
    assert come_from(client, NICE) == b"in nice\n"
    assert come_from(client, NAMELESS) == b""
    wait_for_log(
        named_server,
        f"not from a permitted host (host={NAMELESS}, ip={NAMELESS}, required=*.example.test).",
    )


def test_without_usedns_hosts_have_no_names(
    programs: Programs,
    start_server: ServerFactory,
    account: Account,
    connect: ClientFactory,
    tmp_path: Path,
) -> None:
    settings = ["Match Host nice.example.test", "SetEnv FROM=nice"]
    server = start_server(programs, settings, prefix=with_hosts(tmp_path))
    assert come_from(connect(server, account), NICE) == b"in\n"


def test_users_may_be_denied_from_a_host(
    programs: Programs,
    start_server: ServerFactory,
    account: Account,
    connect: ClientFactory,
    tmp_path: Path,
) -> None:
    settings = ["UseDNS yes", f"DenyUsers {account.name}@nice.*"]
    server = start_server(programs, settings, prefix=with_hosts(tmp_path))
    client = connect(server, account)
    assert come_from(client, NAMELESS) == b"in\n"
    assert come_from(client, NICE) == b""
    wait_for_log(
        server,
        f"User {account.name} from nice.example.test not allowed because listed in DenyUsers",
    )


def test_pam_is_told_the_name(
    programs: Programs,
    start_server: ServerFactory,
    account: Account,
    connect: ClientFactory,
    janitor: Janitor,
    tmp_path: Path,
) -> None:
    """Programs are told the address, as ever."""
    directory = janitor.directory()
    show = directory / "show"
    show.write_text(f"#!/bin/sh\necho $PAM_TYPE $PAM_RHOST >> {directory}/shown\n")
    show.chmod(0o755)
    pam = make_pam_service(janitor, directory, SHOWING)
    server = start_server(programs, ["UseDNS yes"], pam=pam, prefix=with_hosts(tmp_path))
    client = connect(server, account)
    told = client.output("echo $SSH_CLIENT", flags=["-b", NICE])
    assert told.split()[0] == NICE.encode()
    first = (directory / "shown").read_text().splitlines()[0]
    assert first == "open_session nice.example.test"
