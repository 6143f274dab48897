"""The environment of programs: order, precedence, and what may not get in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sshoq.server.account import Account
from sshoq.server.connection import ConnectionFacts
from sshoq.server.environment import (
    MAX_CLIENT_VARIABLES,
    EnvironmentSources,
    accept_client_variables,
    build_environment,
    parse_environment_file,
    parse_login_defaults,
    split_variable,
)

USER = Account("ann", 1001, 1001, "/home/ann", "/bin/zsh", ("ann",))
ROOT = Account("root", 0, 0, "/root", "", ("root",))
PEER = ConnectionFacts("2001:db8::1", 4711, "2001:db8::2", 443)

BARE = {
    b"USER": b"ann",
    b"LOGNAME": b"ann",
    b"HOME": b"/home/ann",
    b"PATH": b"/usr/local/bin:/usr/bin:/bin:/usr/games",
    b"SHELL": b"/bin/zsh",
    b"SSH_CLIENT": b"2001:db8::1 4711 443",
    b"SSH_CONNECTION": b"2001:db8::1 4711 2001:db8::2 443",
}


def test_without_sources_only_the_basics_are_there() -> None:
    assert build_environment(EnvironmentSources(USER, PEER)) == BARE


def test_root_has_another_path_and_no_shell_means_sh() -> None:
    environment = build_environment(EnvironmentSources(ROOT, PEER))
    assert environment[b"PATH"].startswith(b"/usr/local/sbin:")
    assert environment[b"SHELL"] == b"/bin/sh"


def test_every_optional_variable_has_its_source() -> None:
    environment = build_environment(
        EnvironmentSources(
            USER,
            PEER,
            path="/opt/bin",
            mail=True,
            time_zone="UTC",
            terminal="vt100",
            display="localhost:10.0",
            agent_socket="/run/agent",
            tty="/dev/pts/3",
            original_command=b"rsync \xff",
        )
    )
    assert {name: environment[name] for name in environment.keys() - BARE.keys()} == {
        b"MAIL": b"/var/mail/ann",
        b"TZ": b"UTC",
        b"TERM": b"vt100",
        b"DISPLAY": b"localhost:10.0",
        b"SSH_AUTH_SOCK": b"/run/agent",
        b"SSH_TTY": b"/dev/pts/3",
        b"SSH_ORIGINAL_COMMAND": b"rsync \xff",
    }
    assert environment[b"PATH"] == b"/opt/bin"


def test_later_sources_win_in_sshds_order() -> None:
    def who(name: str) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"WHO", name.encode()),)

    client = EnvironmentSources(USER, PEER, client=who("client"))
    key = client._replace(key=who("key"))
    file = key._replace(file=who("file"))
    pam = file._replace(pam=who("pam"))
    configured = pam._replace(configured=who("configured"))
    found = [build_environment(one)[b"WHO"] for one in (client, key, file, pam, configured)]
    assert found == [b"client", b"key", b"file", b"pam", b"configured"]


def test_nobody_overrides_whose_connection_it_is() -> None:
    forged = ((b"SSH_CONNECTION", b"10.0.0.1 1 10.0.0.2 2"), (b"SSH_CLIENT", b"x"))
    sources = EnvironmentSources(USER, PEER, client=forged, configured=forged)
    environment = build_environment(sources)
    assert environment[b"SSH_CONNECTION"] == BARE[b"SSH_CONNECTION"]
    assert environment[b"SSH_CLIENT"] == BARE[b"SSH_CLIENT"]


def test_a_client_cannot_say_who_the_user_is() -> None:
    environment = build_environment(EnvironmentSources(USER, PEER, client=((b"USER", b"root"),)))
    assert environment == BARE


def test_of_a_keys_variables_the_first_of_a_name_holds() -> None:
    key = ((b"A", b"first"), (b"A", b"second"))
    assert build_environment(EnvironmentSources(USER, PEER, key=key))[b"A"] == b"first"


def test_what_pam_was_told_is_not_handed_on() -> None:
    pam = ((b"SSH_AUTH_INFO_0", b"password"), (b"SSH_CONNECTION", b"x"), (b"XDG_SEAT", b"seat0"))
    environment = build_environment(EnvironmentSources(USER, PEER, pam=pam))
    assert environment == {**BARE, b"XDG_SEAT": b"seat0"}


def test_accept_env_lets_pass_what_fits_its_patterns() -> None:
    settings = (b"LANG=de", b"LC_ALL=C", b"LD_PRELOAD=/x", b"LC_=", b"LANG", b"=x", b"LC_A\0B=x")
    assert accept_client_variables(settings, ("LANG", "LC_*")) == (
        (b"LANG", b"de"),
        (b"LC_ALL", b"C"),
        (b"LC_", b""),
    )
    assert accept_client_variables(settings, ()) == ()


def test_a_client_may_not_send_any_number_of_variables() -> None:
    settings = [b"X%d=1" % number for number in range(MAX_CLIENT_VARIABLES + 5)]
    assert len(accept_client_variables(settings, ("X*",))) == MAX_CLIENT_VARIABLES


def test_the_users_file_has_comments_blanks_and_bad_lines() -> None:
    content = b"# comment\n\n  A=1\n\tB=x=y\nnonsense\n=empty\nC="
    assert parse_environment_file(content) == (
        [(b"A", b"1"), (b"B", b"x=y"), (b"C", b"")],
        [5, 6],
    )


@given(st.binary())
def test_any_file_gives_settable_variables(content: bytes) -> None:
    variables, _ = parse_environment_file(content)
    for name, value in variables:
        assert split_variable(name + b"=" + value) == (name, value)


@given(st.lists(st.tuples(st.binary(), st.binary())))
def test_what_cannot_be_set_never_reaches_exec(variables: list[tuple[bytes, bytes]]) -> None:
    environment = build_environment(EnvironmentSources(USER, PEER, client=tuple(variables)))
    for name, value in environment.items():
        assert name
        assert b"=" not in name
        assert b"\0" not in name + value


def test_login_defaults_may_be_quoted() -> None:
    content = "# PATH=/no\nPATH=/a:/b\n SUPATH=\"/c\"\nnothing\n"
    assert parse_login_defaults(content) == {"PATH": "/a:/b", "SUPATH": "/c"}
