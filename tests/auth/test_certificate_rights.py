"""What certificates allow, alone and together with the line that trusts their authority."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.auth.authorized_keys import (
    PERMISSIONS,
    KeyRights,
    OptionError,
    RefusedLine,
    parse_options,
)
from sshoq.auth.certificate_rights import (
    CertificateRefused,
    Principal,
    check_validity,
    merge_rights,
    read_principals,
    rights_of,
)
from sshoq.auth.keys import PublicKey
from sshoq.auth.ssh_certificates import FOR_EVER, HOST, USER, Certificate
from sshoq.wire import put_string

KEY = PublicKey(put_string(b"ssh-ed25519") + put_string(b"k" * 32))
NOW = 1_700_000_000.5


def certificate(**changes: Any) -> Certificate:
    plain = Certificate(
        public=KEY,
        key=KEY,
        serial=1,
        role=USER,
        key_id="me",
        principals=("alice", "staff"),
        valid_after=0,
        valid_before=FOR_EVER,
        critical=(),
        extensions=(),
        authority=KEY,
        signature=b"",
    )
    return plain._replace(**changes)


# --------------------------------------------------------------------------- whom, and when


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, None),
        ({}, {"staff"}),
        ({}, {"x", "alice"}),
        ({"valid_after": int(NOW), "valid_before": int(NOW) + 1}, None),
    ],
)
def test_certificate_is_for_whom_it_names(
    changes: dict[str, Any], names: set[str] | None
) -> None:
    principals = None if names is None else frozenset(names)
    check_validity(certificate(**changes), principals, "alice", NOW)


@pytest.mark.parametrize(
    ("changes", "names", "reason"),
    [
        ({"role": HOST}, None, "Certificate invalid: not a user certificate"),
        ({"valid_after": int(NOW) + 1}, None, "Certificate invalid: not yet valid"),
        ({"valid_before": int(NOW)}, None, "Certificate invalid: expired"),
        ({"principals": ()}, None, "Certificate lacks principal list"),
        ({"principals": ()}, {"alice"}, "Certificate lacks principal list"),
        ({"principals": ("bob",)}, None, "name is not a listed principal"),
        ({"principals": ("*",)}, None, "name is not a listed principal"),
        ({"principals": ("alice,staff",)}, {"alice"}, "not contain an authorized principal"),
        ({}, set(), "not contain an authorized principal"),
        ({}, {"bob"}, "not contain an authorized principal"),
    ],
)
def test_certificate_is_for_nobody_else(
    changes: dict[str, Any], names: set[str] | None, reason: str
) -> None:
    principals = None if names is None else frozenset(names)
    with pytest.raises(CertificateRefused, match=reason):
        check_validity(certificate(**changes), principals, "alice", NOW)


# --------------------------------------------------------------------------- what

ALLOWED = {
    "permit-X11-forwarding": "x11_forwarding",
    "permit-agent-forwarding": "agent_forwarding",
    "permit-port-forwarding": "port_forwarding",
    "permit-pty": "pty",
    "permit-user-rc": "user_rc",
}


def permissions(rights: KeyRights) -> set[str]:
    return {name for name in PERMISSIONS.values() if getattr(rights, name)}


def test_certificate_allows_nothing_that_it_does_not_name() -> None:
    assert permissions(rights_of(certificate())) == set()


@pytest.mark.parametrize("name", ALLOWED)
def test_each_extension_allows_one_thing(name: str) -> None:
    rights = rights_of(certificate(extensions=((name, b""), ("unknown@example.com", b"x"))))
    assert permissions(rights) == {ALLOWED[name]}
    assert rights.touch_required


def test_touch_may_be_waived() -> None:
    assert not rights_of(certificate(extensions=(("no-touch-required", b""),))).touch_required


def test_critical_options_restrict() -> None:
    rights = rights_of(
        certificate(
            critical=(
                ("force-command", put_string(b"id -u")),
                ("source-address", put_string(b"10.0.0.0/8")),
                ("verify-required", b""),
            )
        )
    )
    assert (rights.command, rights.source_addresses) == ("id -u", "10.0.0.0/8")
    assert rights.verify_required


@pytest.mark.parametrize(
    ("critical", "extensions"),
    [
        ((("new@example.com", b""),), ()),
        ((("permit-pty", b""),), ()),
        ((("force-command", b"id"),), ()),
        ((("force-command", b""),), ()),
        ((("force-command", put_string(b"id") + b"x"),), ()),
        ((("force-command", put_string(b"id\0")),), ()),
        ((("source-address", b"\0\0"),), ()),
        ((("verify-required", b"x"),), ()),
        ((), (("permit-pty", b"x"),)),
        ((), (("no-touch-required", b"x"),)),
    ],
)
def test_doubtful_options_refuse_the_certificate(
    critical: tuple[tuple[str, bytes], ...], extensions: tuple[tuple[str, bytes], ...]
) -> None:
    with pytest.raises(CertificateRefused):
        rights_of(certificate(critical=critical, extensions=extensions))


# --------------------------------------------------------------------------- both together


def merged(options: str, **changes: Any) -> KeyRights:
    extensions = tuple((name, b"") for name in ALLOWED)
    own = certificate(extensions=extensions)._replace(**changes)
    return merge_rights(parse_options(f"cert-authority{options}"), rights_of(own))


def test_only_what_both_allow_is_allowed() -> None:
    assert permissions(merged("")) == set(ALLOWED.values())
    assert permissions(merged(",no-pty")) == set(ALLOWED.values()) - {"pty"}
    assert permissions(merged(",restrict,pty", extensions=(("permit-user-rc", b""),))) == set()


def test_result_is_no_authority() -> None:
    assert merged(',principals="alice"') == merged("")
    assert not merged("").certificate_authority


@pytest.mark.parametrize("options", ["", ",no-touch-required"])
@pytest.mark.parametrize("extensions", [(), (("no-touch-required", b""),)])
def test_touch_is_required_unless_both_waive_it(
    options: str, extensions: tuple[tuple[str, bytes], ...]
) -> None:
    waived = bool(options) and bool(extensions)
    assert merged(options, extensions=extensions).touch_required != waived


def test_verification_is_required_if_either_wants_it() -> None:
    critical = (("verify-required", b""),)
    assert not merged("").verify_required
    assert merged(",verify-required").verify_required
    assert merged("", critical=critical).verify_required


def test_the_line_keeps_its_lists() -> None:
    options = ',from="10.*",expiry-time="20300101Z",permitopen="a:1",permitlisten="2"'
    rights = merged(f'{options},environment="A=b",tunnel="3"')
    line = parse_options(options[1:])
    assert (rights.from_patterns, rights.expires) == ("10.*", line.expires)
    assert (rights.permit_open, rights.permit_listen) == (line.permit_open, line.permit_listen)
    assert (rights.environment, rights.tunnel) == ({"A": "b"}, 3)


def test_two_keys_allow_what_both_do() -> None:
    first = parse_options('expiry-time="20310101Z",no-pty,environment="A=b"')
    second = parse_options('expiry-time="20300101Z",no-user-rc,command="id",permitopen="a:1"')
    rights = merge_rights(first, second)
    assert permissions(rights) == set(PERMISSIONS.values()) - {"pty", "user_rc"}
    assert rights.expires == second.expires
    assert (rights.command, rights.environment) == ("id", {"A": "b"})
    assert rights.permit_open == second.permit_open
    assert merge_rights(KeyRights(), KeyRights()) == KeyRights()


def test_forced_commands_must_agree() -> None:
    own = (("force-command", put_string(b"id")),)
    assert merged(',command="id"').command == "id"
    assert merged("", critical=own).command == "id"
    assert merged(',command="id"', critical=own).command == "id"
    with pytest.raises(OptionError, match="forced command options do not match"):
        merged(',command="id -u"', critical=own)


# --------------------------------------------------------------------------- lists of principals


def test_principals_stand_one_a_line_with_options_in_front() -> None:
    text = '# comment\n\n alice \nrestrict,command="echo a b"\tstaff # who else\r\n'
    assert list(read_principals(text.encode())) == [
        Principal(3, "alice", KeyRights()),
        Principal(4, "staff", parse_options('restrict,command="echo a b"')),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "no-such-option alice",
        "cert-authority alice",
        'principals="a" alice',
        'command="x alice',
        "alice bob",
    ],
)
def test_doubtful_principal_is_none(line: str) -> None:
    [refused] = read_principals(line.encode())
    assert isinstance(refused, RefusedLine)


def test_huge_list_names_nobody() -> None:
    [refused] = read_principals(b"alice\n" * (1 << 20))
    assert isinstance(refused, RefusedLine)


@given(st.binary(max_size=100))
def test_any_bytes_are_principals_or_refused(data: bytes) -> None:
    for entry in read_principals(data):
        assert isinstance(entry, RefusedLine) or entry.name
