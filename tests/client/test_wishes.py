"""Options as the wishes of the client's parts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sshoq.client.wishes import (
    authentication_methods,
    environment_of,
    escape_character,
    forwarded_agent,
    forwarded_display,
    identity_paths,
    local_command_text,
    not_supported,
    terminal_type,
    without_effect,
)
from sshoq.config.resolve import Invocation, resolve
from sshoq.config.surroundings import Paths, Surroundings


def invocation(*words: str, config: Path | None = None) -> Invocation:
    paths = Paths("/nonexistent", user=str(config or "/nonexistent"), system="/nonexistent")
    surroundings = Surroundings(
        {}, paths, user="me", uid=os.getuid(), home="/home/me", host="here.test"
    )
    return resolve([*words, "host"], surroundings=surroundings)


def methods(*words: str) -> tuple[str, ...]:
    return authentication_methods(invocation(*words).options)


def test_methods_by_default() -> None:
    assert methods() == ("publickey", "keyboard-interactive", "password")


@pytest.mark.parametrize(
    ("option", "left"),
    [
        ("PubkeyAuthentication=no", ("keyboard-interactive", "password")),
        ("PasswordAuthentication=no", ("publickey", "keyboard-interactive")),
        ("KbdInteractiveAuthentication=no", ("publickey", "password")),
        ("ChallengeResponseAuthentication=no", ("publickey", "password")),
        ("KbdInteractiveDevices=bsdauth,skey", ("publickey", "password")),
        ("KbdInteractiveDevices=pam", ("publickey", "keyboard-interactive", "password")),
        ("PreferredAuthentications=password,publickey", ("password", "publickey")),
    ],
)
def test_methods_that_are_wished_for(option: str, left: tuple[str, ...]) -> None:
    assert methods("-o", option) == left


def test_go_flag_asks_for_the_password_unless_a_key_is_named(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    assert methods("-use-password")[0] == "password"
    assert methods("-use-password", "-i", str(key))[0] == "publickey"


def test_identity_files_are_expanded_and_none_is_no_file() -> None:
    options = ["-o", "IdentityFile=~/.ssh/%r_key", "-o", "IdentityFile=none"]
    assert identity_paths(invocation(*options).options) == ("/home/me/.ssh/me_key",)


@pytest.mark.parametrize(
    ("words", "command"),
    [(["--stdio"], "nc %h %p"), ([], "sshoq --stdio %r@%h"), ([], "/opt/bin/sshoq --stdio %h")],
)
def test_a_proxy_command_that_leads_here_is_not_run(
    tmp_path: Path, words: list[str], command: str
) -> None:
    """The same ssh_config serves plain ssh, which needs it, and us, who are it."""
    config = tmp_path / "config"
    config.write_text(f"ProxyCommand {command}\n")
    assert not_supported(invocation(*words, config=config)) is None


def test_environment_is_sent_by_pattern_and_set_last() -> None:
    options = invocation("-o", "SendEnv=LC_* X", "-o", "SetEnv=X=set A=1").options
    environ = {"LC_ALL": "C", "X": "mine", "SECRET": "s"}
    expected = (("LC_ALL", "C"), ("X", "mine"), ("X", "set"), ("A", "1"))
    assert environment_of(options, environ) == expected


def test_variables_that_the_protocol_cannot_carry_are_left_out() -> None:
    options = invocation("-o", "SendEnv=*").options
    environ = {"LONG": "x" * 16385, "N" * 257: "", "FITS": "x" * 16384}
    assert [name for name, _ in environment_of(options, environ)] == ["FITS"]


def test_term_of_setenv_wins() -> None:
    assert terminal_type(invocation().options, {"TERM": "xterm"}) == "xterm"
    options = invocation("-o", "SetEnv=TERM=vt100").options
    assert terminal_type(options, {"TERM": "xterm"}) == "vt100"


def test_escape_character_as_a_byte_or_none() -> None:
    assert escape_character(invocation().options) == b"~"
    assert escape_character(invocation("-e", "^]").options) == b"\x1d"
    assert escape_character(invocation("-e", "none").options) is None


def test_local_command_knows_the_tokens() -> None:
    words = ["-o", "LocalCommand=do %r@%h:%p %n %T %%", "-p", "2222", "-l", "you"]
    assert local_command_text(invocation(*words)) == "do you@host:2222 host NONE %"


@pytest.mark.parametrize(
    "line",
    [
        "Compression yes",
        "Ciphers aes128-ctr",
        "MACs hmac-sha2-256",
        "KexAlgorithms curve25519-sha256",
        "RekeyLimit 1G",
        "TCPKeepAlive no",
        "GSSAPIAuthentication yes",
        "HostbasedAuthentication yes",
        "VerifyHostKeyDNS yes",
        "VersionAddendum hello",
    ],
)
def test_config_files_may_wish_what_does_no_harm(tmp_path: Path, line: str) -> None:
    config = tmp_path / "config"
    config.write_text(line + "\n")
    asked = invocation(config=config)
    assert not_supported(asked) is None
    told = {text.split(":")[0] for text in without_effect(asked.options)}
    assert told - {"UpdateHostKeys"} == {line.split()[0]}


def test_nothing_is_said_of_what_nobody_asked_for() -> None:
    settings = ["UpdateHostKeys=no"]  # else it is on, whether somebody asked for it or not
    for more in ("Compression=no", "TCPKeepAlive=yes", "GSSAPIAuthentication=no"):
        settings.append(more)
        words = [word for setting in settings for word in ("-o", setting)]
        assert without_effect(invocation(*words).options) == []


@pytest.mark.parametrize(
    ("words", "display", "forwarded"),
    [
        (["-X"], ":0", ":0"),
        (["-Y"], "far.test:1.0", "far.test:1.0"),
        (["-X"], "", None),
        (["-X", "-x"], ":0", None),
        ([], ":0", None),
        (["-o", "ForwardX11=yes"], ":0", ":0"),
    ],
)
def test_the_display_is_taken_along_if_wished_and_there(
    words: list[str], display: str, forwarded: str | None
) -> None:
    options = invocation(*words).options
    assert forwarded_display(options, {"DISPLAY": display}) == forwarded
    assert forwarded_display(options, {}) is None


@pytest.mark.parametrize(
    "line", ["Tunnel yes", "ProxyCommand nc x 1"]
)
def test_config_files_may_not_wish_what_would_be_missed(tmp_path: Path, line: str) -> None:
    config = tmp_path / "config"
    config.write_text(line + "\n")
    reason = not_supported(invocation(config=config))
    assert reason is not None
    assert line.split()[0] in reason


@pytest.mark.parametrize(
    ("wish", "is_found"), [("yes", True), ("no", False), ("$OTHER", True), ("$UNSET", False)]
)
def test_the_agent_to_take_along_may_be_named_by_a_variable(
    tmp_path: Path, wish: str, is_found: bool
) -> None:
    here = str(tmp_path)
    environ = {"SSH_AUTH_SOCK": here if wish == "yes" else "/nonexistent", "OTHER": here}
    options = invocation("-o", f"ForwardAgent={wish}").options
    assert forwarded_agent(options, environ) == (here if is_found else None)
