"""Logins with certificates of users, and with keys on FIDO tokens."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sshoq.auth.keys import parse_public_key
from tests.accounts import Account, make_key
from tests.auth.keyring import make_certificate
from tests.auth.security_key import TOUCHED, VERIFIED, SecurityKey, agent_with
from tests.programs import Client, Programs, Server
from tests.scenarios.conftest import ClientFactory, ServerFactory

pytestmark = pytest.mark.privileged


class Authority:
    """Signs keys, each in a file of its own with its certificate beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = make_key(folder / "ca")
        self.public = self.key.with_name("ca.pub")

    @property
    def line(self) -> str:
        return self.public.read_text().strip()

    def make(self, name: str, *options: str, kind: str = "ed25519", principal: str = "") -> Path:
        key = make_key(self.folder / name, kind)
        names = ["-n", principal] if principal else []
        make_certificate(self.key, Path(f"{key}.pub"), *names, *options, key_id=f"id of {name}")
        return key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def trusting(programs: Programs, start_server: ServerFactory, authority: Authority) -> Server:
    return start_server(programs, [f"TrustedUserCAKeys {authority.public}"])


class TestTrustedAuthority:
    @pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
    def test_a_certificate_beside_the_key_opens(
        self,
        trusting: Server,
        connect: ClientFactory,
        account: Account,
        authority: Authority,
        kind: str,
    ) -> None:
        key = authority.make("k", "-z", "77", kind=kind, principal=account.name)
        assert connect(trusting, account, key=key).output("id -un") == f"{account.name}\n".encode()
        fingerprint = parse_public_key(Path(f"{key}.pub").read_bytes()).fingerprint()
        own = parse_public_key(authority.line).fingerprint()
        name = kind.upper()
        log = trusting.log()
        assert (
            f'Accepted certificate ID "id of k" (serial 77) signed by ED25519 CA {own} '
            f"via {authority.public}"
        ) in log
        assert re.search(
            rf"Accepted publickey for {account.name} from 127\.0\.0\.1 port \d+ ssh2: {name}-CERT "
            rf"{re.escape(fingerprint)} ID id of k \(serial 77\) CA ED25519 {re.escape(own)}\n",
            log.replace("\r", ""),
        )

    def test_a_certificate_may_be_named_and_the_key_be_in_the_agent(
        self,
        trusting: Server,
        connect: ClientFactory,
        account: Account,
        authority: Authority,
        agent: str,
    ) -> None:
        key = authority.make("k", principal=account.name)
        certificate = Path(f"{key}-cert.pub").rename(key.with_name("elsewhere.pub"))
        subprocess.run(["ssh-add", "-q", key], env={"SSH_AUTH_SOCK": agent}, check=True)
        client = connect(trusting, account)
        client.key = None
        flags = ["-o", f"CertificateFile={certificate}", "-o", f"IdentityAgent={agent}"]
        assert client.run("true").returncode == 255
        assert client.output("echo in", flags=flags) == b"in\n"

    def test_a_certificate_may_be_in_the_agent(
        self,
        trusting: Server,
        connect: ClientFactory,
        account: Account,
        authority: Authority,
        agent: str,
    ) -> None:
        key = authority.make("k", principal=account.name)
        subprocess.run(["ssh-add", "-q", key], env={"SSH_AUTH_SOCK": agent}, check=True)
        client = connect(trusting, account)
        client.key = None
        assert client.output("echo in", flags=["-o", f"IdentityAgent={agent}"]) == b"in\n"

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["-n", "somebody"], "Certificate invalid: name is not a listed principal"),
            ([], "Certificate lacks principal list"),
            (["-n", "USER", "-V", "20010101:20020101"], "Certificate invalid: expired"),
            (["-n", "USER", "-V", "20990101:forever"], "Certificate invalid: not yet valid"),
            (["-n", "USER", "-O", "critical:new@example.com=x"], "Invalid certificate options"),
            (
                ["-n", "USER", "-O", "source-address=10.0.0.0/8"],
                "valid certificate but not from a permitted source address (127.0.0.1).",
            ),
        ],
    )
    def test_a_certificate_for_others_opens_nothing(
        self,
        trusting: Server,
        connect: ClientFactory,
        account: Account,
        authority: Authority,
        options: list[str],
        reason: str,
    ) -> None:
        key = authority.make("k", *[word.replace("USER", account.name) for word in options])
        assert connect(trusting, account, key=key).run("true").returncode == 255
        assert reason in trusting.log() or "is not supported" in trusting.log()

    def test_a_host_certificate_opens_nothing(
        self, trusting: Server, connect: ClientFactory, account: Account, authority: Authority
    ) -> None:
        key = authority.make("k", "-h", principal=account.name)
        assert connect(trusting, account, key=key).run("true").returncode == 255

    def test_a_strange_authority_opens_nothing(
        self, trusting: Server, connect: ClientFactory, account: Account, tmp_path: Path
    ) -> None:
        other = Authority(tmp_path / "other")
        key = other.make("k", principal=account.name)
        assert connect(trusting, account, key=key).run("true").returncode == 255

    def test_what_the_certificate_does_not_allow_is_refused(
        self, trusting: Server, connect: ClientFactory, account: Account, authority: Authority
    ) -> None:
        bare = authority.make("bare", "-O", "clear", principal=account.name)
        client = connect(trusting, account, key=bare)
        assert client.output("echo in") == b"in\n"
        done = client.run("tty", flags=["-tt"])
        assert b"PTY allocation request failed on channel 0" in done.stderr
        full = authority.make("full", principal=account.name)
        with_pty = connect(trusting, account, key=full)
        assert with_pty.output("tty", flags=["-tt"]).startswith(b"/dev/pts/")

    def test_the_certificates_command_is_what_runs(
        self, trusting: Server, connect: ClientFactory, account: Account, authority: Authority
    ) -> None:
        command = "echo forced: $SSH_ORIGINAL_COMMAND"
        key = authority.make("k", "-O", f"force-command={command}", principal=account.name)
        assert connect(trusting, account, key=key).output("rm", "x") == b"forced: rm x\n"

    def test_a_revoked_certificate_opens_nothing(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        account: Account,
        authority: Authority,
        tmp_path: Path,
    ) -> None:
        krl, specification = tmp_path / "krl", tmp_path / "specification"
        specification.write_text("serial: 5-6\nid: id of named\n")
        arguments = ["-q", "-k", "-s", authority.public, "-f", krl, specification]
        subprocess.run(["ssh-keygen", *map(str, arguments)], check=True)
        trust = f"TrustedUserCAKeys {authority.public}"
        server = start_server(programs, [trust, f"RevokedKeys {krl}"])
        for name, serial, status in (("good", "7", 0), ("bad", "6", 255), ("named", "8", 255)):
            key = authority.make(name, "-z", serial, principal=account.name)
            assert connect(server, account, key=key).run("true").returncode == status, name


class TestPrincipals:
    @pytest.mark.parametrize(
        ("content", "status"),
        [
            ("staff\n", 0),
            ("# comment\n\n  other\n\tstaff # who\n", 0),
            ("other\n", 255),
            ("USER\n", 255),
            ("no-such-option staff\n", 255),
            ('from="10.0.0.0/8" staff\n', 255),
        ],
    )
    def test_a_file_says_which_names_may_come(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
        authority: Authority,
        content: str,
        status: int,
    ) -> None:
        fresh_account.write(".ssh/names", content.replace("USER", fresh_account.name))
        server = start_server(
            programs,
            [f"TrustedUserCAKeys {authority.public}", "AuthorizedPrincipalsFile .ssh/names"],
        )
        key = authority.make("k", principal="staff")
        assert connect(server, fresh_account, key=key).run("true").returncode == status

    @pytest.mark.parametrize(("said", "status"), [("staff", 0), ("other", 255)])
    def test_a_program_may_say_it(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        account: Account,
        authority: Authority,
        said: str,
        status: int,
    ) -> None:
        trust = f"TrustedUserCAKeys {authority.public}"
        program = f"AuthorizedPrincipalsCommand /bin/echo {said}"
        user = "AuthorizedPrincipalsCommandUser nobody"
        server = start_server(programs, [trust, program, user])
        key = authority.make("k", principal="staff")
        assert connect(server, account, key=key).run("true").returncode == status

    def test_a_names_options_bind_whoever_bears_it(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
        authority: Authority,
    ) -> None:
        fresh_account.write(".ssh/names", 'command="echo by name" staff\n')
        server = start_server(
            programs,
            [f"TrustedUserCAKeys {authority.public}", "AuthorizedPrincipalsFile %h/.ssh/names"],
        )
        key = authority.make("k", principal="staff")
        assert connect(server, fresh_account, key=key).output("id") == b"by name\n"
        other = authority.make("other", "-O", "force-command=id", principal="staff")
        assert connect(server, fresh_account, key=other).run("id").returncode == 255
        assert "forced command options do not match" in server.log()


class TestUsersOwnAuthority:
    def test_a_line_with_cert_authority_opens_for_the_users_name(
        self, server: Server, connect: ClientFactory, fresh_account: Account, authority: Authority
    ) -> None:
        fresh_account.authorized_keys.write_text(f"cert-authority {authority.line}\n")
        good = authority.make("good", principal=fresh_account.name)
        assert connect(server, fresh_account, key=good).output("echo in") == b"in\n"
        path = f"{fresh_account.authorized_keys}:1"
        assert 'Accepted certificate ID "id of good" (serial 0) signed by CA ED25519' in (
            server.log()
        )
        assert f"found at {path}" in server.log()
        bad = authority.make("bad", principal="somebody")
        assert connect(server, fresh_account, key=bad).run("true").returncode == 255

    def test_the_line_may_name_others(
        self, server: Server, connect: ClientFactory, fresh_account: Account, authority: Authority
    ) -> None:
        options = 'cert-authority,principals="staff,ops"'
        fresh_account.authorized_keys.write_text(f"{options} {authority.line}\n")
        for name, status in (("ops", 0), (fresh_account.name, 255), ("staf", 255)):
            key = authority.make(f"for_{name}", principal=name)
            client = connect(server, fresh_account, key=key)
            assert client.run("true").returncode == status, name

    def test_the_authority_itself_does_not_get_in(
        self, server: Server, connect: ClientFactory, fresh_account: Account, authority: Authority
    ) -> None:
        fresh_account.authorized_keys.write_text(f"cert-authority {authority.line}\n")
        client = connect(server, fresh_account, key=authority.key)
        assert client.run("true").returncode == 255

    def test_a_plain_line_vouches_for_no_certificate(
        self, server: Server, connect: ClientFactory, fresh_account: Account, authority: Authority
    ) -> None:
        fresh_account.authorized_keys.write_text(f"{authority.line}\n")
        key = authority.make("k", principal=fresh_account.name)
        assert connect(server, fresh_account, key=key).run("true").returncode == 255

    def test_options_of_line_and_certificate_both_bind(
        self, server: Server, connect: ClientFactory, fresh_account: Account, authority: Authority
    ) -> None:
        fresh_account.authorized_keys.write_text(f"cert-authority,no-pty {authority.line}\n")
        key = authority.make("k", principal=fresh_account.name)
        done = connect(server, fresh_account, key=key).run("tty", flags=["-tt"])
        assert b"PTY allocation request failed on channel 0" in done.stderr


class TestSecurityKeys:
    @pytest.fixture(params=["ed25519", "ecdsa"])
    def token(self, request: pytest.FixtureRequest) -> SecurityKey:
        return SecurityKey(request.param)

    @pytest.fixture
    def token_agent(self, token: SecurityKey, tmp_path: Path) -> Iterator[str]:
        held = {token.public_key.blob: token.sign_for_ssh}
        with agent_with(tmp_path / "token", held) as path:
            yield path

    @pytest.fixture
    def client(
        self,
        server: Server,
        connect: ClientFactory,
        fresh_account: Account,
        token_agent: str,
    ) -> Client:
        return self.client_of(connect, server, fresh_account, token_agent)

    def client_of(
        self, connect: ClientFactory, server: Server, account: Account, agent: str
    ) -> Client:
        client = connect(server, account)
        client.key = None
        client.more_options = ["-o", f"IdentityAgent={agent}"]
        return client

    def test_a_touched_token_opens(
        self, server: Server, client: Client, fresh_account: Account, token: SecurityKey
    ) -> None:
        fresh_account.authorized_keys.write_text(f"{token.public_key.line}\n")
        assert client.output("echo in") == b"in\n"
        kind, fingerprint = token.public_key.kind.name, token.public_key.fingerprint()
        assert f"ssh2: {kind} {fingerprint}\n" in server.log().replace("\r", "")

    @pytest.mark.parametrize(
        ("options", "flags", "status"),
        [
            ("", 0, 255),
            ("no-touch-required ", 0, 0),
            ("verify-required ", TOUCHED, 255),
            ("verify-required ", TOUCHED | VERIFIED, 0),
            ("verify-required,no-touch-required ", VERIFIED, 0),
        ],
    )
    def test_what_the_key_demands_must_have_been_done(
        self,
        server: Server,
        client: Client,
        fresh_account: Account,
        token: SecurityKey,
        options: str,
        flags: int,
        status: int,
    ) -> None:
        token.flags = flags
        fresh_account.authorized_keys.write_text(f"{options}{token.public_key.line}\n")
        assert client.run("true").returncode == status
        if status:
            demand = "user verification" if flags else "user presence (authenticator touch)"
            assert f"rejected: {demand} requirement not met" in server.log()

    def test_the_server_may_demand_more(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
        token: SecurityKey,
        token_agent: str,
    ) -> None:
        server = start_server(programs, ["PubkeyAuthOptions touch-required verify-required"])
        client = self.client_of(connect, server, fresh_account, token_agent)
        fresh_account.authorized_keys.write_text(f"no-touch-required {token.public_key.line}\n")
        for flags, status in ((VERIFIED, 255), (TOUCHED, 255), (TOUCHED | VERIFIED, 0)):
            token.flags = flags
            assert client.run("true").returncode == status, flags

    def test_a_certificate_may_be_a_tokens(
        self,
        server: Server,
        client: Client,
        fresh_account: Account,
        authority: Authority,
        token: SecurityKey,
        tmp_path: Path,
    ) -> None:
        public = tmp_path / "token.pub"
        public.write_text(f"{token.public_key.line}\n")
        path = make_certificate(authority.key, public, "-n", fresh_account.name)
        fresh_account.authorized_keys.write_text(f"cert-authority {authority.line}\n")
        flags = ["-o", f"CertificateFile={path}"]
        assert client.output("echo in", flags=flags) == b"in\n"
        token.flags = 0
        assert client.run("true", flags=flags).returncode == 255


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """A real ssh-agent without keys."""
    path = str(tmp_path / "agent")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield path
    process.terminate()
    process.communicate()
