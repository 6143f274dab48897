"""Who gets in, and what the log says of it. Each test runs a monitor, and is its network
process."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sshoq.auth.host_key_proof import are_proven
from sshoq.auth.keys import PublicKey, parse_public_key
from sshoq.auth.private_keys import load_private_key
from sshoq.auth.token import build_token
from sshoq.server.privsep import (
    Authenticate,
    AuthenticationResult,
    HandshakeSigned,
    HostKeysProven,
    LoginFailed,
    LoginSucceeded,
    LogLine,
    Penalty,
    ProveHostKeys,
    SignHandshake,
)
from sshoq.server.privsep_socket import PeerGone
from sshoq.wire import put_string
from tests.accounts import Account, PamService, make_key, make_pam_service
from tests.auth.keyring import make_certificate
from tests.janitor import Janitor
from tests.needs import need_root
from tests.privileged.monitor_driver import (
    CONVERSATION_ID,
    PATIENCE,
    Monitor,
    receive,
    token_for,
)
from tests.processes import wait_until

pytestmark = pytest.mark.privileged

ACCEPTED = AuthenticationResult.ACCEPTED
REFUSED = AuthenticationResult.REFUSED
CLOSED = AuthenticationResult.CLOSED

FROM = "from 192.0.2.7 port 40007"


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


@pytest.fixture
def keys(account: Account) -> Iterator[Callable[[str], None]]:
    """Sets the account's authorized_keys; the old content comes back after the test."""
    before = account.authorized_keys.read_text()

    def write(content: str) -> None:
        account.write(".ssh/authorized_keys", content)

    yield write
    write(before)


# --------------------------------------------------------------------------- keys


def test_a_key_opens_a_login_and_a_command_runs(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        out, err, status = monitor.run("id -un; echo oops >&2; exit 7")
        assert (out, err, status) == (f"{account.name}\n", "oops\n", 7)
        assert isinstance(receive(monitor.main)[0], LoginSucceeded)
        assert f"Accepted publickey for {account.name} {FROM} ssh2: ED25519 SHA256:" in monitor.log


def test_a_key_that_is_not_in_the_file_is_refused(tmp_path: Path, account: Account) -> None:
    stranger = make_key(tmp_path / "stranger")
    with Monitor(tmp_path / "m") as monitor:
        assert monitor.try_key(account.name, stranger).outcome == REFUSED
        assert monitor.try_key(account.name, account.key).outcome == ACCEPTED


def test_a_token_of_another_connection_is_refused(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        token = token_for(account.name, account.key, conversation=bytes(32))
        assert monitor.try_header(account.name, f"Bearer {token}").outcome == REFUSED


def test_a_token_is_good_for_one_try(
    tmp_path: Path, keys: Callable[[str], None], account: Account
) -> None:
    """Refused because of from=, it must not become good because the file was changed meanwhile."""
    with Monitor(tmp_path) as monitor:
        header = f"Bearer {token_for(account.name, account.key)}"
        keys(f'from="198.51.100.0/24" {account.public_key}\n')
        assert monitor.try_header(account.name, header).outcome == REFUSED
        keys(f"{account.public_key}\n")
        assert monitor.try_header(account.name, header).outcome == REFUSED
        assert "not from a permitted host" in monitor.log


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ('from="192.0.2.0/24"', ACCEPTED),
        ('from="!192.0.2.7,192.0.2.0/24"', REFUSED),
        ('expiry-time="20200101"', REFUSED),
        ('expiry-time="20990101"', ACCEPTED),
        ("cert-authority", REFUSED),
        ("no-such-option", REFUSED),
    ],
)
def test_key_options_decide(
    tmp_path: Path, keys: Callable[[str], None], account: Account, options: str, outcome: int
) -> None:
    keys(f"{options} {account.public_key}\n")
    with Monitor(tmp_path) as monitor:
        assert monitor.try_key(account.name, account.key).outcome == outcome


def test_short_rsa_keys_are_refused(
    tmp_path: Path, keys: Callable[[str], None], account: Account
) -> None:
    short = tmp_path / "short"
    subprocess.run(["ssh-keygen", "-q", "-trsa", "-b1024", "-N", "", "-f", short], check=True)
    long = make_key(tmp_path / "long", "rsa")
    keys(short.with_suffix(".pub").read_text() + long.with_suffix(".pub").read_text())
    with Monitor(tmp_path / "m") as monitor:
        assert monitor.try_key(account.name, short).outcome == REFUSED
        assert monitor.try_key(account.name, long).outcome == ACCEPTED
        assert "too short" in monitor.log


def test_a_revoked_key_is_refused_by_list_and_by_revocation_list(
    tmp_path: Path, keys: Callable[[str], None], account: Account
) -> None:
    other = make_key(tmp_path / "other")
    public = other.with_suffix(".pub")
    keys(f"{account.public_key}\n{public.read_text()}")
    krl = tmp_path / "krl"
    subprocess.run(["ssh-keygen", "-qkf", krl, public], check=True)
    for revoked in (public, krl):
        with Monitor(tmp_path / f"m-{revoked.name}", f"RevokedKeys {revoked}") as monitor:
            assert monitor.try_key(account.name, other).outcome == REFUSED
            assert f"revoked by file {revoked}" in monitor.log
            assert monitor.try_key(account.name, account.key).outcome == ACCEPTED


def test_revocations_that_cannot_be_read_refuse_every_key_but_no_password(
    tmp_path: Path, account: Account
) -> None:
    with Monitor(tmp_path, "RevokedKeys /nowhere") as monitor:
        assert monitor.try_key(account.name, account.key).outcome == REFUSED
        expected = "in revoked keys file /nowhere: No such file or directory"
        assert "Error checking authentication key ED25519 SHA256:" in monitor.log
        assert expected in monitor.log
        assert monitor.try_password(account.name, account.password).outcome == ACCEPTED


def test_revocations_may_hold_for_some_users_alone(tmp_path: Path, account: Account) -> None:
    rule = "Match User nobody-else\nRevokedKeys /nowhere"
    with Monitor(tmp_path, trailer=rule) as monitor:
        assert monitor.try_key(account.name, account.key).outcome == ACCEPTED


def test_a_file_that_others_may_write_is_not_believed(
    tmp_path: Path, fresh_account: Account
) -> None:
    fresh_account.authorized_keys.chmod(0o666)
    with Monitor(tmp_path / "strict") as monitor:
        assert monitor.try_key(fresh_account.name, fresh_account.key).outcome == REFUSED
        assert "bad ownership or modes for file" in monitor.log
    with Monitor(tmp_path / "lax", "StrictModes no") as monitor:
        assert monitor.try_key(fresh_account.name, fresh_account.key).outcome == ACCEPTED


@pytest.mark.parametrize("names_key", [True, False], ids=["ours", "go"])
def test_a_clock_that_is_wrong_is_told_beyond_a_day(
    tmp_path: Path, account: Account, names_key: bool
) -> None:
    private = load_private_key(str(account.key))
    blob = private.public_key.blob if names_key else b""
    with Monitor(tmp_path / "m") as monitor:
        for hours, outcome in ((72, REFUSED), (23, ACCEPTED)):
            when = time.time() + hours * 3600
            token = build_token(account.name, CONVERSATION_ID, private, when, key=blob)
            assert monitor.try_header(account.name, f"Bearer {token}").outcome == outcome
        assert f"Authentication tried for {account.name} from" in monitor.log
        assert "(exp is too far away): the client's clock is wrong, or ours" in monitor.log


MANY = 40_000


def test_a_key_that_says_which_it_is_is_found_among_many(
    tmp_path: Path, keys: Callable[[str], None], account: Account
) -> None:
    stranger = make_key(tmp_path / "stranger")
    keys(f"{stranger.with_suffix('.pub').read_text()}" * MANY + account.public_key + "\n")
    with Monitor(tmp_path / "m") as monitor:
        private = load_private_key(str(account.key))
        blob = private.public_key.blob
        token = build_token(account.name, CONVERSATION_ID, private, time.time(), key=blob)
        assert monitor.try_header(account.name, f"Bearer {token}").outcome == ACCEPTED
        assert f"authorized_keys:{MANY + 1}" in monitor.log


def test_a_key_that_does_not_say_so_is_looked_for_among_the_first_thousand(
    tmp_path: Path, keys: Callable[[str], None], account: Account
) -> None:
    stranger = make_key(tmp_path / "stranger")
    another = make_key(tmp_path / "another", "ecdsa")
    others = stranger.with_suffix(".pub").read_text()
    with Monitor(tmp_path / "m1") as monitor:
        keys(others * 1000 + account.public_key + "\n")
        assert monitor.try_key(account.name, account.key).outcome == REFUSED
        wait_until(
            lambda: "authorized_keys:1001: too many keys to try" in monitor.log, PATIENCE, "a line"
        )
    with Monitor(tmp_path / "m2") as monitor:  # those of other kinds do not count
        keys(another.with_suffix(".pub").read_text() * 2000 + others * 999 + account.public_key)
        assert monitor.try_key(account.name, account.key).outcome == ACCEPTED


def test_key_files_are_read_with_the_rights_of_the_user(
    tmp_path: Path, fresh_account: Account
) -> None:
    """Else a link in a home would make root read, and log, what is nobody's business."""
    secret = tmp_path / "roots"
    secret.write_text(fresh_account.public_key + "\n")
    secret.chmod(0o600)
    tmp_path.chmod(0o755)
    fresh_account.authorized_keys.unlink()
    fresh_account.authorized_keys.symlink_to(secret)
    with Monitor(tmp_path / "m", "StrictModes no") as monitor:
        assert monitor.try_key(fresh_account.name, fresh_account.key).outcome == REFUSED
        where = fresh_account.authorized_keys
        told = f"Could not open user '{fresh_account.name}' authorized keys '{where}': "
        assert f"{told}Permission denied\n" in monitor.log


def test_a_fifo_in_place_of_a_key_file_holds_nobody(tmp_path: Path, fresh_account: Account) -> None:
    fresh_account.authorized_keys.unlink()
    subprocess.run(["mkfifo", fresh_account.authorized_keys], check=True)
    with Monitor(tmp_path) as monitor:
        assert monitor.try_key(fresh_account.name, fresh_account.key).outcome == REFUSED
        assert "not a regular file" in monitor.log


def test_the_go_servers_file_is_read_unless_keys_are_kept_elsewhere(
    tmp_path: Path, fresh_account: Account
) -> None:
    fresh_account.authorized_keys.unlink()
    fresh_account.write(".ssh3/authorized_identities", fresh_account.public_key + "\n")
    with Monitor(tmp_path / "default") as monitor:
        assert monitor.try_key(fresh_account.name, fresh_account.key).outcome == ACCEPTED
    with Monitor(tmp_path / "central", "AuthorizedKeysFile /etc/nowhere/%u") as monitor:
        assert monitor.try_key(fresh_account.name, fresh_account.key).outcome == REFUSED


# --------------------------------------------------------------------------- certificates


def certificate_header(account: Account, blob: bytes) -> str:
    signer = load_private_key(str(account.key))
    token = build_token(account.name, CONVERSATION_ID, signer, time.time(), certificate=blob)
    return f"Bearer {token}"


@pytest.mark.parametrize("signature", [b"", b"\0\0", put_string(b"ssh-ed25519")])
def test_a_home_made_certificate_is_refused_and_breaks_nothing(
    tmp_path: Path, account: Account, signature: bytes
) -> None:
    key = parse_public_key(account.public_key).blob
    name = put_string(b"ssh-ed25519-cert-v01@openssh.com") + put_string(b"nonce")
    blob = name + key[len(put_string(b"ssh-ed25519")) :] + bytes(8) + b"\0\0\0\1"
    blob += put_string(b"id") + put_string(put_string(account.name.encode()))
    blob += bytes(8) + b"\xff" * 8 + put_string(b"") * 3 + put_string(key)
    ca = tmp_path / "ca"
    ca.write_text(f"{account.public_key}\n")
    with Monitor(tmp_path / "m", f"TrustedUserCAKeys {ca}") as monitor:
        header = certificate_header(account, blob + put_string(signature))
        assert monitor.try_header(account.name, header).outcome == REFUSED
        assert monitor.try_header(account.name, certificate_header(account, key)).outcome == REFUSED
        assert monitor.try_key(account.name, account.key).outcome == ACCEPTED


def test_a_certificate_needs_its_key(tmp_path: Path, account: Account) -> None:
    """Whoever has seen one must not be let in by it."""
    ca, owner = make_key(tmp_path / "ca"), make_key(tmp_path / "owner")
    path = make_certificate(ca, owner.with_name("owner.pub"), "-n", account.name)
    blob = parse_public_key(path.read_bytes()).blob
    with Monitor(tmp_path / "m", f"TrustedUserCAKeys {ca}.pub") as monitor:
        stolen = certificate_header(account, blob)
        assert monitor.try_header(account.name, stolen).outcome == REFUSED
        own = certificate_header(account._replace(key=owner), blob)
        assert monitor.try_header(account.name, own).outcome == ACCEPTED


# --------------------------------------------------------------------------- passwords


def test_a_password_is_checked_by_pam(
    tmp_path: Path, account: Account, pam_service: PamService
) -> None:
    with Monitor(tmp_path, pam_service=pam_service.name) as monitor:
        assert monitor.try_password(account.name, "wrong").outcome == REFUSED
        assert f"Failed password for {account.name} {FROM} ssh2" in monitor.log
        assert monitor.try_password(account.name, account.password).outcome == ACCEPTED
        assert f"Accepted password for {account.name} {FROM} ssh2" in monitor.log


def test_a_password_is_checked_without_pam(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        assert monitor.try_password(account.name, "wrong").outcome == REFUSED
        assert monitor.try_password(account.name, account.password).outcome == ACCEPTED


def test_basic_credentials_of_somebody_else_are_refused(
    tmp_path: Path, account: Account, account_factory: Callable[..., Account]
) -> None:
    other = account_factory()
    with Monitor(tmp_path) as monitor:
        header = f"Basic {_basic(other.name, other.password)}"
        assert monitor.try_header(account.name, header).outcome == REFUSED


def test_password_authentication_can_be_switched_off(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path, "PasswordAuthentication no") as monitor:
        assert monitor.try_password(account.name, account.password).outcome == REFUSED


def test_a_failed_password_is_on_record(tmp_path: Path, account: Account) -> None:
    """In a /var/log that only this monitor sees."""
    log = tmp_path / "varlog"
    log.mkdir()
    (log / "btmp").touch(mode=0o600)
    mount = f'mount --bind {log} /var/log && exec "$@"'
    with Monitor(tmp_path, wrapper=("unshare", "--mount", "sh", "-c", mount, "sh")) as monitor:
        monitor.try_password(account.name, "wrong")
        monitor.try_key(account.name, make_key(tmp_path / "other"))
    shown = subprocess.run(
        ["last", "-w", "-i", "-f", str(log / "btmp")], capture_output=True, text=True, check=True
    ).stdout
    [line] = [line for line in shown.splitlines() if line.startswith(account.name)]
    assert line.split()[1:3] == ["ssh:notty", "192.0.2.7"]


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


# --------------------------------------------------------------------------- several methods


def test_methods_are_wanted_in_their_order(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path, "AuthenticationMethods publickey,password") as monitor:
        first = monitor.try_password(account.name, account.password)
        assert (first.outcome, first.methods, first.is_partial) == (REFUSED, "publickey", False)
        second = monitor.try_key(account.name, account.key)
        assert (second.outcome, second.methods, second.is_partial) == (REFUSED, "password", True)
        assert f"Partial publickey for {account.name} {FROM} ssh2: ED25519 SHA256:" in monitor.log
        wrong = monitor.try_password(account.name, "wrong")
        assert (wrong.outcome, wrong.methods, wrong.is_partial) == (REFUSED, "password", False)
        assert monitor.try_key(account.name, account.key).outcome == REFUSED
        assert monitor.try_password(account.name, account.password).outcome == ACCEPTED
        assert f"Accepted password for {account.name} {FROM} ssh2" in monitor.log


def test_each_list_of_methods_is_enough(tmp_path: Path, account: Account) -> None:
    lists = "AuthenticationMethods password,publickey publickey"
    with Monitor(tmp_path / "one", lists) as monitor:
        assert monitor.try_key(account.name, account.key).outcome == ACCEPTED
    with Monitor(tmp_path / "two", lists) as monitor:
        partial = monitor.try_password(account.name, account.password)
        assert (partial.methods, partial.is_partial) == ("publickey", True)
        assert monitor.try_key(account.name, account.key).outcome == ACCEPTED


def test_two_keys_must_be_two_and_bind_both(
    tmp_path: Path, keys: Callable[[str], None], account: Account
) -> None:
    second, third = make_key(tmp_path / "second"), make_key(tmp_path / "third")
    public = [path.with_suffix(".pub").read_text() for path in (second, third)]
    keys(
        f'restrict,command="echo $SSH_ORIGINAL_COMMAND" {account.public_key}\n'
        f'{public[0]}command="id" {public[1]}'
    )
    with Monitor(tmp_path / "m", "AuthenticationMethods publickey,publickey") as monitor:
        assert monitor.try_key(account.name, account.key).is_partial
        signer = load_private_key(str(account.key))  # the very same token would be refused as such
        token = build_token(account.name, CONVERSATION_ID, signer, time.time() + 5)
        again = monitor.try_header(account.name, f"Bearer {token}")
        assert (again.outcome, again.is_partial) == (REFUSED, False)
        assert "refusing previously-used ED25519 key" in monitor.log
        assert monitor.try_key(account.name, third).outcome == REFUSED
        assert "forced command options do not match" in monitor.log
        assert monitor.try_key(account.name, second).outcome == ACCEPTED
        monitor.open_login()
        assert monitor.run("from both")[0] == "from both\n"


def test_a_partial_success_counts_as_no_failure_and_is_no_login(
    tmp_path: Path, account: Account
) -> None:
    rules = ("AuthenticationMethods publickey,password", "MaxAuthTries 1")
    with Monitor(tmp_path, *rules) as monitor:
        assert monitor.try_key(account.name, account.key).is_partial
        assert monitor.try_password(account.name, "wrong").outcome == CLOSED
        monitor.hang_up()
        monitor.wait()
        assert list(monitor.messages_to_main()) == [Penalty("authfail")]


def test_an_unknown_user_is_offered_the_same_methods(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path, "AuthenticationMethods password,publickey") as monitor:
        assert monitor.try_password("nosuchuser", account.password).methods == "password"


# --------------------------------------------------------------------------- accounts


def test_an_unknown_user_fails_as_a_known_one_does(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        known = monitor.try_password(account.name, "wrong")
    with Monitor(tmp_path) as monitor:
        assert monitor.try_password("nosuchuser", "wrong") == known
        assert f"Invalid user nosuchuser {FROM}" in monitor.log
        assert f"Failed password for invalid user nosuchuser {FROM} ssh2" in monitor.log
        monitor.hang_up()
        monitor.wait()
        assert "Connection closed by invalid user nosuchuser 192.0.2.7 port 40007" in monitor.log
        assert list(monitor.messages_to_main()) == [Penalty("invaliduser")]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("DenyUsers {name}", "listed in DenyUsers"),
        ("DenyUsers {name}@192.0.2.0/24", "listed in DenyUsers"),
        ("AllowUsers somebody", "not listed in AllowUsers"),
        ("AllowUsers {name}@198.51.100.1", "not listed in AllowUsers"),
        ("DenyGroups {name}", "a group is listed in DenyGroups"),
        ("AllowGroups wheel", "none of user's groups are listed in AllowGroups"),
    ],
)
def test_lists_keep_users_out(tmp_path: Path, account: Account, rule: str, reason: str) -> None:
    with Monitor(tmp_path, rule.format(name=account.name)) as monitor:
        assert monitor.try_key(account.name, account.key).outcome == REFUSED
        line = f"User {account.name} from 192.0.2.7 not allowed because {reason}"
        assert line in monitor.log


@pytest.mark.parametrize(
    "rule", ["AllowUsers {name}@192.0.2.?", "AllowGroups {name}", "DenyUsers {name}@10.0.0.0/8"]
)
def test_lists_let_users_in(tmp_path: Path, account: Account, rule: str) -> None:
    with Monitor(tmp_path, rule.format(name=account.name)) as monitor:
        assert monitor.try_key(account.name, account.key).outcome == ACCEPTED


def test_a_shell_that_is_none_keeps_the_user_out(
    tmp_path: Path, account_factory: Callable[..., Account]
) -> None:
    account = account_factory(shell="/nonexistent/shell")
    with Monitor(tmp_path) as monitor:
        assert monitor.try_key(account.name, account.key).outcome == REFUSED
        assert "not allowed because shell /nonexistent/shell does not exist" in monitor.log


def test_a_locked_account_is_closed_without_pam(tmp_path: Path, fresh_account: Account) -> None:
    subprocess.run(["passwd", "--quiet", "--lock", fresh_account.name], check=True)
    with Monitor(tmp_path) as monitor:
        assert monitor.try_key(fresh_account.name, fresh_account.key).outcome == REFUSED
        assert "because account is locked" in monitor.log


def test_an_expired_account_is_closed_without_pam(tmp_path: Path, fresh_account: Account) -> None:
    subprocess.run(["usermod", "--expiredate", "2001-02-03", fresh_account.name], check=True)
    with Monitor(tmp_path) as monitor:
        assert monitor.try_key(fresh_account.name, fresh_account.key).outcome == REFUSED
        assert f"Account {fresh_account.name} has expired" in monitor.log


def test_pam_closes_an_expired_account_to_keys_too(
    tmp_path: Path, fresh_account: Account, pam_service: PamService
) -> None:
    subprocess.run(["usermod", "--expiredate", "2001-02-03", fresh_account.name], check=True)
    with Monitor(tmp_path / "m", pam_service=pam_service.name) as monitor:
        result = monitor.try_key(fresh_account.name, fresh_account.key)
        assert result.outcome == CLOSED
        assert "expired" in result.banner
        wanted = f"Access denied for user {fresh_account.name} by PAM account configuration"
        assert wanted in monitor.log


def test_roots_login_follows_the_rule(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    keys = tmp_path / "keys"
    keys.write_text(key.with_suffix(".pub").read_text())
    file = f"AuthorizedKeysFile {keys}\nStrictModes no"
    for rule, outcome in (
        ("prohibit-password", ACCEPTED),
        ("yes", ACCEPTED),
        ("no", REFUSED),
        ("forced-commands-only", REFUSED),
    ):
        with Monitor(tmp_path / rule, file, f"PermitRootLogin {rule}") as monitor:
            assert monitor.try_key("root", key).outcome == outcome, rule
            assert ("ROOT LOGIN REFUSED" in monitor.log) == (outcome == REFUSED)
    keys.write_text('command="echo forced" ' + key.with_suffix(".pub").read_text())
    with Monitor(tmp_path / "forced", file, "PermitRootLogin forced-commands-only") as monitor:
        assert monitor.try_key("root", key).outcome == ACCEPTED
        monitor.open_login()
        assert monitor.run("id")[0] == "forced\n"


# --------------------------------------------------------------------------- limits of a connection


def test_tries_are_counted(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path, "MaxAuthTries 3") as monitor:
        outcomes = [monitor.try_password(account.name, "wrong").outcome for _ in range(3)]
        assert outcomes == [REFUSED, REFUSED, CLOSED]
        assert f"maximum authentication attempts exceeded for {account.name} {FROM}" in monitor.log
        monitor.network.send(Authenticate(account.name, b"", CONVERSATION_ID))
        assert monitor.wait() == 1  # breaking the rule ends the monitor
        assert list(monitor.messages_to_main()) == [Penalty("authfail")]


def test_the_first_request_without_credentials_is_free(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path, "MaxAuthTries 1") as monitor:
        assert monitor.try_header(account.name, "").outcome == REFUSED
        assert monitor.try_header(account.name, "").outcome == CLOSED


@pytest.mark.parametrize(
    ("user", "conversation"),
    [("root", CONVERSATION_ID), (None, bytes(32)), (None, b"short")],
    ids=["user", "conversation", "length"],
)
def test_what_was_told_first_holds(
    tmp_path: Path, account: Account, user: str | None, conversation: bytes
) -> None:
    with Monitor(tmp_path) as monitor:
        assert monitor.try_header(account.name, "").outcome == REFUSED
        again = monitor.try_header(user or account.name, "", conversation)
        assert again.outcome == CLOSED


def test_a_connection_without_a_login_is_ended_in_time(tmp_path: Path) -> None:
    with Monitor(tmp_path, "LoginGraceTime 1") as monitor:
        assert monitor.wait() == 0
        assert "Timeout before authentication for connection from 192.0.2.7" in monitor.log
        assert list(monitor.messages_to_main()) == [Penalty("grace-exceeded")]


def test_a_refused_connection_is_closed_once_the_user_is_known(
    tmp_path: Path, account: Account
) -> None:
    rule = f"Match User {account.name}\nRefuseConnection yes"
    with Monitor(tmp_path, trailer=rule) as monitor:
        assert monitor.try_key(account.name, account.key).outcome == CLOSED
        monitor.hang_up()
        assert list(monitor.messages_to_main()) == [Penalty("refuseconnection")]


def test_a_connection_that_tried_nothing_is_a_penalty_too(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.hang_up()
        assert monitor.wait() == 0
        assert list(monitor.messages_to_main()) == [Penalty("noauth")]
        assert "Connection closed by 192.0.2.7 port 40007 [preauth]" in monitor.log


def test_an_address_that_was_never_heard_from_is_not_punished(tmp_path: Path) -> None:
    """Anybody can send a first packet in its name."""
    with Monitor(tmp_path, validated=False) as monitor:
        monitor.hang_up()
        assert monitor.wait() == 0
        assert list(monitor.messages_to_main()) == []


def test_the_banner_goes_before_the_first_answer(tmp_path: Path, account: Account) -> None:
    banner = tmp_path / "banner"
    banner.write_text("Authorized use only.\n")
    with Monitor(tmp_path / "m", f"Banner {banner}") as monitor:
        assert monitor.try_password(account.name, "wrong").banner == "Authorized use only.\n"
        assert monitor.try_password(account.name, "wrong").banner == ""


# ------------------------------------------------------------------------- what the network may ask

HANDSHAKE = b" " * 64 + b"TLS 1.3, server CertificateVerify\0"
ED25519_SCHEME = 0x0807


def test_a_handshake_is_signed(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.network.send(SignHandshake(ED25519_SCHEME, HANDSHAKE + bytes(32)))
        assert len(monitor.expect(HandshakeSigned).signature) == 64


@pytest.mark.parametrize(
    ("scheme", "content"),
    [
        (ED25519_SCHEME, b"anything"),
        (ED25519_SCHEME, HANDSHAKE + bytes(31)),
        (ED25519_SCHEME, HANDSHAKE.replace(b"server", b"client") + bytes(32)),
        (0x0804, HANDSHAKE + bytes(32)),
    ],
    ids=["text", "length", "context", "scheme"],
)
def test_nothing_but_a_handshake_is_signed(tmp_path: Path, scheme: int, content: bytes) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.network.send(SignHandshake(scheme, content))
        with pytest.raises(PeerGone):
            receive(monitor.network)
        assert monitor.wait() == 1


def test_the_third_signature_is_refused(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        for _ in range(2):
            monitor.network.send(SignHandshake(ED25519_SCHEME, HANDSHAKE + bytes(48)))
            monitor.expect(HandshakeSigned)
        monitor.network.send(SignHandshake(ED25519_SCHEME, HANDSHAKE + bytes(48)))
        with pytest.raises(PeerGone):
            receive(monitor.network)


def test_the_network_process_is_told_which_congestion_control_is_wanted(tmp_path: Path) -> None:
    for line, wanted in (("UsePAM no", "bbr"), ("CongestionControl cubic", "cubic")):
        with Monitor(tmp_path / wanted, line) as monitor:
            assert monitor.welcome.congestion_control == wanted


def public_keys(*paths: Path) -> list[PublicKey]:
    return [parse_public_key(Path(f"{path}.pub").read_text()) for path in paths]


def test_all_host_keys_are_told_and_proven_for_the_connection_of_the_login(
    tmp_path: Path, account: Account
) -> None:
    paths = [tmp_path / "m" / "host_key", make_key(tmp_path / "next"), make_key(tmp_path / "rsa")]
    with Monitor(tmp_path / "m", *(f"HostKey {path}" for path in paths[1:])) as monitor:
        keys = public_keys(*paths)
        assert list(monitor.welcome.host_keys) == [key.blob for key in keys]
        monitor.log_in(account)
        monitor.network.send(ProveHostKeys((keys[1].blob, keys[0].blob)))
        signatures = monitor.expect(HostKeysProven).signatures
        assert are_proven((keys[1], keys[0]), signatures, CONVERSATION_ID)


def test_no_host_key_is_proven_to_whom_nobody_let_in(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.network.send(ProveHostKeys(monitor.welcome.host_keys))
        assert monitor.wait() == 1
        assert "ProveHostKeys is not permitted before login" in monitor.log


def test_a_key_that_is_not_the_hosts_is_not_proven(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        monitor.network.send(ProveHostKeys((public_keys(account.key)[0].blob,)))
        assert monitor.wait() == 1
        assert "none of the host's" in monitor.log


@pytest.mark.parametrize("times", [(2,), (1, 1)], ids=["in one question", "in two"])
def test_a_host_key_is_proven_once(
    tmp_path: Path, account: Account, times: tuple[int, ...]
) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        for number in times:
            monitor.network.send(ProveHostKeys(monitor.welcome.host_keys * number))
        assert monitor.wait() == 1


def test_after_the_login_nobody_authenticates_again(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        header = f"Bearer {token_for(account.name, account.key)}".encode()
        monitor.network.send(Authenticate(account.name, header, CONVERSATION_ID))
        assert monitor.wait() == 1
        assert "Authenticate is not permitted after login" in monitor.log


def test_log_lines_are_marked_and_made_harmless(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.network.send(LogLine(1, "Accepted\npassword for root"))
        monitor.hang_up()
        monitor.wait()
        assert "Accepted\\012password for root [preauth]" in monitor.log


# --------------------------------------------------------------------------- PAM's part


def test_modules_that_talk_are_heard(
    tmp_path: Path, account: Account, janitor: Janitor
) -> None:
    """python-pam and others crash here: the callback must give the module C memory."""
    stack = """\
auth     required pam_permit.so
account  required pam_echo.so the account phase greets %u
account  required pam_permit.so
session  required pam_permit.so
session  optional pam_echo.so hello from the session
"""
    service = make_pam_service(janitor, tmp_path, stack)
    with Monitor(tmp_path / "m", pam_service=service.name) as monitor:
        result = monitor.try_key(account.name, account.key)
        assert result.outcome == ACCEPTED
        assert result.banner == f"the account phase greets {account.name}\n"
        monitor.open_login()
        program = monitor.start_on_pty(None)
        assert "hello from the session" in program.read_until("hello from the session")


def test_a_session_that_pam_does_not_open_is_no_login(
    tmp_path: Path, account: Account, janitor: Janitor
) -> None:
    stack = (
        "auth required pam_permit.so\naccount required pam_permit.so\n"
        "session optional pam_echo.so too many logins\nsession required pam_deny.so\n"
    )
    service = make_pam_service(janitor, tmp_path, stack)
    with Monitor(tmp_path / "m", pam_service=service.name) as monitor:
        assert monitor.try_key(account.name, account.key).outcome == ACCEPTED
        failed = monitor.expect(LoginFailed)
        assert (failed.reason, failed.told) == ("PAM session not opened", "too many logins\n")


def test_pam_is_gone_through_in_order_and_undone_in_order(
    tmp_path: Path, account: Account, janitor: Janitor
) -> None:
    log = tmp_path / "pam.log"
    script = tmp_path / "note"
    script.write_text(
        f'#!/bin/sh\necho "$PAM_TYPE $PAM_USER $PAM_RHOST $PAM_TTY $(id -u)" >> {log}\n'
    )
    script.chmod(0o755)
    note = f"pam_exec.so {script}"
    stack = "".join(f"{phase} required {note}\n" for phase in ("auth", "account", "session"))
    stack += "auth required pam_permit.so\n"  # pam_exec has no answer to setcred
    service = make_pam_service(janitor, tmp_path, stack)
    with Monitor(tmp_path / "m", pam_service=service.name) as monitor:
        assert monitor.try_password(account.name, "anything").outcome == ACCEPTED
        monitor.open_login()
        assert monitor.run("echo x")[0] == "x\n"
        before = time.monotonic()
        monitor.hang_up()
        monitor.wait()
        assert time.monotonic() - before < 15
    who = f"{account.name} 192.0.2.7 ssh 0"
    lines = log.read_text().splitlines()
    assert lines == [
        f"auth {who}",
        f"account {who}",
        f"open_session {who}",
        f"close_session {who}",
    ]


def test_an_expired_password_leaves_nothing_but_passwd(
    tmp_path: Path, fresh_account: Account, pam_service: PamService
) -> None:
    subprocess.run(["chage", "--lastday", "0", fresh_account.name], check=True)
    with Monitor(tmp_path / "m", pam_service=pam_service.name) as monitor:
        monitor.log_in(fresh_account)
        out, err, status = monitor.run("echo not run")
        assert (out, status) == ("", 1)
        assert "Password change required but no TTY available." in err
        program = monitor.start_on_pty("echo not run")
        text = program.read_until("assword:")
        assert "WARNING: Your password has expired." in text
        assert "You must change your password now and login again!" in text


def test_credentials_that_pam_gives_reach_the_program(
    tmp_path: Path, account: Account, pam_service: PamService
) -> None:
    with Monitor(tmp_path / "m", pam_service=pam_service.name) as monitor:
        monitor.log_in(account)
        assert monitor.run("echo $FROM_PAM")[0] == "yes\n"
