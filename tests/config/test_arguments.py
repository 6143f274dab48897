"""Command lines of both kinds."""

import pytest

from sshoq.config.arguments import LONG_FLAGS, SWITCHES, WITH_ARGUMENT
from tests.config.wishes import Machine


def test_letters_may_be_clustered(machine: Machine) -> None:
    options = machine.resolve("-4Cgp99", "web").options
    assert (options.address_family, options.compression, options.gateway_ports, options.port) == (
        "inet", "yes", True, 99,
    )  # fmt: skip


def test_flags_may_follow_the_destination_but_not_the_command(machine: Machine) -> None:
    invocation = machine.resolve("web", "-p", "5", "ls", "-p", "6", "-insecure")
    assert (invocation.options.port, invocation.command) == (5, "ls -p 6 -insecure")
    assert not invocation.options.insecure
    assert machine.resolve("--", "web", "-p", "5").command == "-p 5"


def test_long_flags_are_whole_words(machine: Machine) -> None:
    options = machine.resolve("-insecure", "web").options
    assert options.insecure
    assert machine.resolve("--insecure=true", "web").options.insecure
    assert not machine.resolve("-insecure=false", "web").options.insecure
    # One letter more, and it is -i with its argument.
    assert "nsecurely" in machine.resolve("-insecurely", "web").notes[0]


@pytest.mark.parametrize(
    ("words", "attribute", "value"),
    [
        (["-use-password"], "use_password", True),
        (["--keylog", "/k"], "key_log", "/k"),
        (["-keylog=/k"], "key_log", "/k"),
        (["-config-dir", "/d"], "config_dir", "/d"),
        (["-force-pty"], "force_pty", True),
        (["-forward-agent"], "forward_agent", True),
        (["-proxy-jump", "u@j:443/p"], "udp_proxy_jump", "u@j:443/p"),
        (["-pubkey-for-agent", "k.pub"], "agent_public_key", "k.pub"),
        (["-use-oidc", "https://x"], "use_oidc", "https://x"),
        (["-oidc-config=c"], "oidc_config", "c"),
        (["-no-pkce"], "pkce", False),
        (["-no-follow-symlinks"], "follow_symlinks", False),
        (["-r"], "recursive", True),
    ],
)
def test_flags_of_the_go_client(
    machine: Machine, words: list[str], attribute: str, value: object
) -> None:
    assert getattr(machine.resolve(*words, "web").options, attribute) == value


@pytest.mark.parametrize(
    ("flag", "attribute", "protocol"),
    [
        ("-forward-tcp", "local_forwards", "tcp"),
        ("-forward-udp", "local_forwards", "udp"),
        ("-reverse-tcp", "remote_forwards", "tcp"),
        ("-reverse-udp", "remote_forwards", "udp"),
    ],
)
def test_forwards_of_the_go_client(
    machine: Machine, flag: str, attribute: str, protocol: str
) -> None:
    options = machine.resolve(flag, "1@127.0.0.1@2,3@127.0.0.1@4", "web").options
    forwards = getattr(options, attribute)
    assert [(f.listen_port, f.protocol) for f in forwards] == [(1, protocol), (3, protocol)]
    assert machine.refusal(flag, "1:h:2", "web") == ("Bad forwarding specification '1:h:2'",)


def test_letters_take_specifications_of_both_kinds(machine: Machine) -> None:
    options = machine.resolve(
        "-L", "8080@127.0.0.1@3000", "-R", "1@::1@2", "-L", "udp:53:h:53", "web"
    ).options
    assert [f.listen_port for f in options.local_forwards] == [8080, 53]
    assert options.remote_forwards[0].connect_host == "::1"


def test_forwards_expand_variables(machine: Machine) -> None:
    machine.environ["DIR"] = "/d"
    assert (
        machine.resolve("-L", "${DIR}/s:h:1", "web").options.local_forwards[0].listen_path == "/d/s"
    )
    assert (
        machine.refusal("-L", "${NO}:h:1", "web")[-1]
        == "Bad local forwarding specification '${NO}:h:1'"
    )


def test_flags_beat_options_and_options_beat_files(machine: Machine) -> None:
    machine.write("AddressFamily any\nUser file\n")
    options = machine.resolve(
        "-o", "AddressFamily=inet6", "-4", "-o", "User=a", "-l", "b", "web"
    ).options
    assert (options.address_family, options.user) == ("inet", "a")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["-tt"], "force"),
        (["-t", "-T"], "no"),
        (["-t"], "yes"),
        ([], "auto"),
    ],
)
def test_terminals_are_asked_for_in_degrees(
    machine: Machine, words: list[str], answer: str
) -> None:
    assert machine.resolve(*words, "web").options.request_tty == answer


def test_verbosity_counts(machine: Machine) -> None:
    levels = [machine.resolve(*["-v"] * n, "web").options.log_level for n in range(1, 6)]
    assert levels == [4, 5, 6, 6, 6]
    assert machine.resolve("-v", "-q", "web").options.log_level == -1


def test_stdio_mode_reaches_the_sshd_behind(machine: Machine) -> None:
    for words, host, port in (
        (["--stdio", "web"], "127.0.0.1", 22),
        (["--stdio", "u@web", "2222"], "127.0.0.1", 2222),
        (["--stdio", "u@web", "inner"], "inner", 22),
        (["--stdio", "u@web:4433/path", "inner:2222"], "inner", 2222),
        (["--stdio", "web", "[::1]:22"], "::1", 22),
        (["--stdio=inner:23", "web"], "inner", 23),
    ):
        invocation = machine.resolve(*words)
        target = invocation.options.stdio_forward
        assert target is not None
        assert (invocation.action, target.connect_host, target.connect_port) == (
            "stdio",
            host,
            port,
        )
        assert invocation.options.clear_all_forwardings
        assert not invocation.wants_tty
    path = machine.resolve("--stdio", "web", "/run/ssh.sock").options.stdio_forward
    assert path is not None
    assert path.connect_path == "/run/ssh.sock"
    for wrong in (["a:b:c"], ["inner:0"], ["inner", "22"]):
        assert "--stdio takes" in machine.refusal("--stdio", "web", *wrong)[0]


def test_copies_name_their_server_before_the_percent_sign(machine: Machine) -> None:
    invocation = machine.resolve("-scp", "-r", "local", "u@web:444/p%/tmp/x")
    assert (invocation.action, invocation.operands) == ("scp", ("local", "u@web:444/p%/tmp/x"))
    options = invocation.options
    assert (options.user, options.hostname, options.quic_port, options.url_path) == (
        "u", "web", 444, "/p",
    )  # fmt: skip
    assert options.recursive
    for operands in (["a"], ["a", "b"], ["a%b", "c%d"], ["a", "b%c", "d"]):
        assert machine.refusal("-scp", *operands)[0].startswith("-scp needs")


@pytest.mark.parametrize("words", [("-sftp", "web"), ("-scp", "here", "web%there")])
def test_copying_files_is_all_that_it_does(machine: Machine, words: tuple[str, ...]) -> None:
    machine.write(
        "Host web\nControlMaster auto\nControlPath ~/.ssh/%C\nControlPersist yes\n"
        "RemoteCommand tmux\nRequestTTY yes\nPermitLocalCommand yes\nLocalCommand x\n"
        "ForwardAgent yes\nLocalForward 1111 a:2\nForwardX11 yes\n"
    )
    options = machine.resolve(*words).options
    assert options.control_path is None
    assert options.control_master == "no"
    assert options.remote_command is None
    assert options.local_forwards == ()
    for wish in ("permit_local_command", "forward_agent", "forward_x11"):
        assert getattr(options, wish) is False
    assert options.request_tty == "no"


def test_the_sftp_mode(machine: Machine) -> None:
    assert machine.resolve("-sftp", "web").action == "sftp"


def test_control_commands(machine: Machine) -> None:
    invocation = machine.resolve("-O", "check", "web")
    assert (invocation.action, invocation.control_command) == ("control", "check")
    assert machine.refusal("-O", "bogus", "web") == ("Invalid multiplex command.",)
    assert machine.refusal("-O", "stop", "-O", "exit", "web") == (
        "Multiplexing command already specified",
    )
    assert machine.refusal("-W", "h:1", "-O", "exit", "web") == (
        "Cannot specify multiplexing command with -W",
    )
    assert machine.refusal("-O", "exit", "-W", "h:1", "web") == (
        "Cannot specify stdio forward with -O",
    )


def test_answers_without_a_destination(machine: Machine) -> None:
    version = machine.resolve("-V").answer
    assert version is not None
    assert version.stdout == ()
    assert version.stderr[0].startswith("OpenSSH_10.5p1 sshoq_")
    go_version = machine.resolve("-version").answer
    assert go_version is not None
    assert go_version.stdout[0].startswith("sshoq version h4sh5/sshoq 0.2.1")
    for word in ("-help", "--help"):
        usage = machine.resolve(word, "and", "more").answer
        assert usage is not None
        assert (usage.stderr[0][:12], usage.stdout, usage.status) == ("usage: sshoq", (), 0)
    query = machine.resolve("-Q", "protocol-version").answer
    assert query is not None
    assert (query.stdout, query.status) == (("2",), 0)
    assert machine.refusal("-Q", "x") == ('Unsupported query "x"',)


def test_usage(machine: Machine) -> None:
    for words, first in (
        ([], "usage: ssh"),
        (["-h"], "unknown option -- h"),
        (["-p"], "option requires an argument -- p"),
        (["-keylog"], "flag needs an argument: -keylog"),
        (["@web"], "usage: ssh"),
        (["-s", "web"], "You must specify a subsystem to invoke."),
    ):
        lines = machine.refusal(*words)
        assert lines[0].startswith(first)
        assert any(line.startswith("usage: ssh") for line in lines)


def test_every_letter_of_openssh_is_known() -> None:
    letters = set("1246AaBbCcDEeFfGgIiJKkLlMmNnOoPpQqRSsTtVvWwXxYyZ")
    assert letters == set(SWITCHES) | set(WITH_ARGUMENT)
    assert all(len(name) > 1 or name == "r" for name in LONG_FLAGS)


def test_identity_files_of_the_command_line_come_first_and_exist(machine: Machine) -> None:
    machine.write("IdentityFile b\n")
    key = machine.write("k", "key")
    invocation = machine.resolve("-i", "~/.ssh/key", "-i", "/nowhere", "web")
    assert invocation.options.identity_files == (str(key), "b")
    assert invocation.notes[0] == (
        "Warning: Identity file /nowhere not accessible: No such file or directory."
    )


def test_what_real_ssh_would_be_given(machine: Machine) -> None:
    words = ["-4p", "99", "-o", "Transport=auto", "-o", "User=bob", "web", "-t", "ls", "-l"]
    assert machine.resolve(*words).ssh_arguments == (
        "-4", "-p", "99", "-o", "User=bob", "web", "-t", "--", "ls", "-l",
    )  # fmt: skip
    assert machine.resolve("--", "web", "-p", "1").ssh_arguments == ("web", "--", "-p", "1")


@pytest.mark.parametrize(
    "words", [["-insecure", "web"], ["web/p"], ["https://web"], ["web:444"], ["-sftp", "web"]]
)
def test_words_that_only_sshoq_knows_leave_nothing_to_ssh(
    machine: Machine, words: list[str]
) -> None:
    invocation = machine.resolve(*words)
    assert invocation.names_sshoq
    assert invocation.ssh_arguments is None
