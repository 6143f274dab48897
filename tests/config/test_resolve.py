"""The finished wishes: SSHOQ's own keywords and ports, and what only OpenSSH 10 does."""

import os
from pathlib import Path

import pytest

from sshoq.config.keywords import ROWS
from sshoq.config.options import Options
from sshoq.config.resolve import FLAG_DEFAULTS, resolve
from sshoq.config.surroundings import Surroundings
from sshoq.config.usage import UsageError
from tests.config.wishes import Machine


@pytest.mark.parametrize(
    ("config", "words", "port", "quic_port"),
    [
        ("", ["web"], 22, 443),
        ("Port 2222\n", ["web"], 2222, 2222),
        ("Port 22\n", ["web"], 22, 443),
        ("Port 2222\nQUICPort 4443\n", ["web"], 2222, 4443),
        ("QUICPort 4443\n", ["web"], 22, 4443),
        ("QUICPort 4443\n", ["-p", "22", "web"], 22, 22),
        ("QUICPort 4443\n", ["-o", "Port=5", "web"], 5, 5),
        ("QUICPort 4443\nPort 6\n", ["web:7"], 7, 7),
        ("QUICPort 4443\nPort 6\n", ["https://web:8/p"], 8, 8),
        ("QUICPort 4443\nPort 6\n", ["ssh://web:9"], 9, 9),
        ("Port 6\n", ["-o", "QUICPort=10", "web"], 6, 10),
    ],
)
def test_the_udp_port(
    machine: Machine, config: str, words: list[str], port: int, quic_port: int
) -> None:
    machine.write(config)
    options = machine.resolve(*words).options
    assert (options.port, options.quic_port) == (port, quic_port)


def test_the_path_and_where_it_comes_from(machine: Machine) -> None:
    options = machine.resolve("web").options
    assert (options.url_path, options.url_path_is_default) == ("/sshoq-server", True)
    machine.write("URLPath /secret\n")
    options = machine.resolve("web").options
    assert (options.url_path, options.url_path_is_default) == ("/secret", False)
    assert machine.resolve("web/other").options.url_path == "/other"
    machine.write("URLPath secret\n")
    assert "must start with" in machine.refusal("web")[0]


def test_own_keywords(machine: Machine) -> None:
    machine.write(
        "Transport QUIC\nServerCertificate ~/c.pem\nUDPProxyJump u@j:444\n", "sshoq_config"
    )
    options = machine.resolve("web").options
    assert (options.transport, options.server_certificate, options.udp_proxy_jump) == (
        "quic", "~/c.pem", "u@j:444",
    )  # fmt: skip
    assert machine.resolve("-o", "Transport=ssh", "web").options.transport == "ssh"
    assert machine.resolve("-F", "none", "web").options.transport == "auto"
    assert options.congestion_control == "bbr"
    words = ("-o", "CongestionControl=cubic", "web")
    assert machine.resolve(*words).options.congestion_control == "cubic"
    assert machine.refusal("-o", "CongestionControl=reno", "web")


def test_the_user_of_a_url_query_comes_after_the_url_s_own(machine: Machine) -> None:
    machine.write("User file\n")
    assert machine.resolve("https://web/p?user=query").options.user == "query"
    assert machine.resolve("https://own@web/p?user=query").options.user == "own"
    assert machine.resolve("web").options.user == "file"


def test_every_attribute_is_typed_and_set(machine: Machine) -> None:
    typed = set(Options.__annotations__)
    rows = {row.attribute for row in ROWS}
    derived = {"config_dir", "jump_hosts", "path_expander", "tokens", "url_path_is_default"}
    assert typed == rows | set(FLAG_DEFAULTS) | derived
    assert typed == set(vars(machine.resolve("web").options))


def test_user_names_expand_and_are_checked_then(machine: Machine) -> None:
    machine.environ["WHO"] = "bob"
    machine.write("User ${WHO}-%n\n")
    assert machine.resolve("web").options.user == "bob-web"
    machine.environ["WHO"] = "a;b"
    assert machine.refusal("web") == ("remote username contains invalid characters",)
    machine.write("User a;b\n")
    assert machine.resolve("web").options.user == "a;b"
    machine.write("User %r\n")
    assert machine.refusal("web")[0] == "vdollar_percent_expand: unknown key %r"


def test_values_of_variables_expand(machine: Machine) -> None:
    machine.environ["X"] = "y"
    machine.write("SetEnv A=%h B=${X}\nVersionAddendum at %n # not this\n")
    options = machine.resolve("web").options
    assert options.set_env == ("A=web", "B=y")
    assert options.version_addendum == "at web"


def test_revoked_keys_may_be_in_several_files(machine: Machine) -> None:
    machine.write("RevokedHostKeys ~/r /k/%h\n")
    assert machine.resolve("web").options.revoked_host_keys == (f"{machine.home}/r", "/k/web")
    machine.write("RevokedHostKeys none\n")
    assert machine.resolve("web").options.revoked_host_keys == ()


def test_the_jump_host_is_a_token(machine: Machine) -> None:
    machine.write("ProxyJump a,u@b:5\nControlPath /c/%j\n")
    options = machine.resolve("web").options
    assert options.control_path == "/c/b"
    assert [hop.host for hop in options.jump_hosts] == ["a", "b"]
    assert options.proxy_command is None


def test_connections_can_be_refused(machine: Machine) -> None:
    path = machine.write('Host web\n RefuseConnection "not from here"\n')
    assert machine.refusal("web") == (f"{path} line 2: RefuseConnection: not from here",)
    assert machine.resolve("db").host == "db"


@pytest.mark.parametrize(
    ("line", "attribute", "value"),
    [
        ("ObscureKeystrokeTiming no", "obscure_keystroke_interval", 0),
        ("ObscureKeystrokeTiming interval:50", "obscure_keystroke_interval", 50),
        ("ChannelTimeout session=5m *=1h", "channel_timeouts", ("session=5m", "*=1h")),
        ("WarnWeakCrypto no-pq-kex", "warn_weak_crypto", "no-pq-kex"),
        ("ConnectTimeout 1.5", "connect_timeout", 1),
        ("IPQoS lowdelay af21", "ip_qos", (None, 0x48)),
        ("IPQoS 16", "ip_qos", (16, 16)),
        ("Tag x", "tag", "x"),
    ],
)
def test_keywords_of_openssh_10(machine: Machine, line: str, attribute: str, value: object) -> None:
    machine.write(f"{line}\n")
    assert getattr(machine.resolve("web").options, attribute) == value


@pytest.mark.parametrize(
    "line",
    [
        "ObscureKeystrokeTiming interval:0",
        "ObscureKeystrokeTiming interval:x",
        "ObscureKeystrokeTiming Yes",
        "ObscureKeystrokeTiming yes no",
        "ChannelTimeout session",
        "ChannelTimeout session=x",
        "ChannelTimeout none x=1",
        "WarnWeakCrypto maybe",
        "IPQoS 0x10",
        "Transport tcp",
        "QUICPort 0",
        "HostKeyAlgorithms +ssh-dss",
    ],
)
def test_values_that_openssh_10_refuses(machine: Machine, line: str) -> None:
    path = machine.write(f"{line}\n")
    assert machine.refusal("web")[0].startswith(f"{path} line 1: ")


def test_an_empty_algorithm_list_ends_the_run(machine: Machine) -> None:
    machine.write("Ciphers -*\n")
    assert machine.refusal("web") == ("fill_default_options: ciphers: invalid argument",)


def test_a_forwarded_agent_must_exist_for_those_who_insist(machine: Machine) -> None:
    machine.write("ForwardAgent /nowhere\n")
    complaint = 'Cannot forward agent socket path "/nowhere": No such file or directory'
    assert machine.resolve("web").notes == (complaint,)
    assert machine.refusal("-o", "ExitOnForwardFailure=yes", "web") == (complaint,)


def test_low_ports_are_the_kernels_business(machine: Machine) -> None:
    machine.uid = 1000
    assert machine.resolve("-L", "80:h:81", "web").options.local_forwards


@pytest.mark.parametrize(
    ("words", "terminal", "wants"),
    [
        (["web"], True, True),
        (["web", "ls"], True, False),
        (["-t", "web", "ls"], True, True),
        (["-T", "web"], True, False),
        (["-N", "web"], True, False),
        (["-n", "web"], True, False),
        (["-O", "check", "web"], True, False),
        (["-O", "proxy", "web"], True, True),
        (["-t", "web", "ls"], False, False),
        (["-tt", "web", "ls"], False, True),
        (["-sftp", "web"], True, False),
    ],
)
def test_who_gets_a_terminal(
    machine: Machine, words: list[str], terminal: bool, wants: bool
) -> None:
    machine.is_terminal = terminal
    assert machine.resolve(*words).wants_tty == wants


def test_key_files_are_kept_as_written_and_expand_when_used(machine: Machine) -> None:
    machine.environ["DIR"] = "/d"
    machine.write("IdentityFile ~/.ssh/%h-%r\nCertificateFile ${DIR}/c\nUser bob\n")
    options = machine.resolve("web").options
    assert options.identity_files == ("~/.ssh/%h-%r",)
    assert options.expand_path(options.identity_files[0]) == f"{machine.home}/.ssh/web-bob"
    assert options.expand_path(options.certificate_files[0]) == "/d/c"


def test_questions_are_not_asked_where_nobody_would_see_them(machine: Machine) -> None:
    machine.write("UpdateHostKeys ask\n")
    assert machine.resolve("web").options.update_host_keys == "ask"
    for words in (["web", "ls"], ["-T", "web"], ["-q", "web"]):
        assert machine.resolve(*words).options.update_host_keys == "no"


def test_the_remote_command_is_the_command(machine: Machine) -> None:
    machine.write("RemoteCommand tmux -L %n\n")
    assert machine.resolve("web").command == "tmux -L web"


def test_an_edit_is_no_destination(machine: Machine) -> None:
    invocation = resolve(["config", "get", "web", "Port"])
    assert (invocation.action, invocation.operands) == ("config", ("get", "web", "Port"))
    assert machine.resolve("config", "get", "x").host == "config"


def test_a_process_needs_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    with pytest.raises(UsageError, match="No user exists for uid 2147483641"):
        resolve(["web"], {})


def test_home_is_the_account_s_whatever_the_environment_says(tmp_path: Path) -> None:
    surroundings = Surroundings({"HOME": str(tmp_path)})
    assert surroundings.home == os.path.expanduser(f"~{surroundings.user}")
