"""Match criteria, above all those that OpenSSH got after 9.2."""

import pytest

from tests.config.wishes import USER, Machine


def user(machine: Machine, condition: str, *argv: str, before: str = "") -> str:
    machine.write(f"{before}Match {condition}\n User matched\n")
    return machine.resolve(*(argv or ("web",))).options.user


@pytest.mark.parametrize(
    "condition",
    [
        "all",
        "host web",
        "host=WEB",
        "host = web",
        "'host' \"web\"",
        "originalhost w?b",
        f"localuser {USER}",
        f"user {USER}",
        "!host db",
        'exec "test %h = web"',
        "exec true",
        'tagged ""',
        'command ""',
        "sessiontype shell",
        "version OpenSSH_10.*",
        "localnetwork 10.0.0.0/8,192.0.2.0/24",
        "final host web",
        "host web all",
    ],
)
def test_what_matches(machine: Machine, condition: str) -> None:
    assert user(machine, condition) == "matched"


@pytest.mark.parametrize(
    "condition",
    [
        "!all",
        "host db",
        "host !web,*",
        "user matched",
        "exec false",
        "exec false exec true",
        "tagged x",
        "command ?*",
        "sessiontype exec",
        "version OpenSSH_9*",
        "localnetwork 10.0.0.0/8",
        "canonical",
        "!final host db",
    ],
)
def test_what_does_not_match(machine: Machine, condition: str) -> None:
    assert user(machine, condition) == USER


def test_tags_come_from_the_command_line_or_an_earlier_block(machine: Machine) -> None:
    assert user(machine, "tagged t*", "-P", "test", "web") == "matched"
    assert user(machine, "tagged test", before="Tag test\n") == "matched"
    assert user(machine, "tagged other", "-P", "test", "web", before="Tag other\n") == USER


def test_the_session_is_what_the_command_line_says(machine: Machine) -> None:
    assert user(machine, "sessiontype exec command up*", "web", "uptime", "-p") == "matched"
    assert user(machine, "sessiontype none", "-N", "web") == "matched"
    assert user(machine, "sessiontype subsystem command sftp", "-s", "web", "sftp") == "matched"
    assert user(machine, "command ?*", before="RemoteCommand uptime\n") == USER


def test_a_negated_final_asks_for_no_second_pass(machine: Machine) -> None:
    machine.write(
        "Match !final\n User first\nMatch user first\n Port 5\nMatch canonical\n Port 6\n"
    )
    options = machine.resolve("web").options
    assert (options.user, options.port) == ("first", 5)
    machine.write("Match final\n User second\n")
    assert machine.resolve("web").options.user == "second"


def test_a_failed_criterion_keeps_a_command_from_running(machine: Machine) -> None:
    marker = machine.home / "ran"
    user(machine, f'host db exec "touch {marker}"')
    assert not marker.exists()
    user(machine, f'host web exec "touch {marker}"')
    assert marker.exists()


def test_a_command_sees_the_values_so_far(machine: Machine) -> None:
    condition = 'exec "test %p-%r-%n-%j = 2222-bob-web-jump"'
    before = "Port 2222\nUser bob\nProxyJump a,u@jump:5\n"
    machine.write(f"{before}Match {condition}\n IdentityFile yes\n")
    assert machine.resolve("web").options.identity_files == ("yes",)


@pytest.mark.parametrize(
    ("condition", "complaint"),
    [
        ("bogus x", "Unsupported Match attribute bogus"),
        ("host", "Missing Match criteria for host"),
        ('user ""', "Missing Match criteria for user"),
        ("#", "One or more attributes required for Match"),
    ],
)
def test_what_cannot_be_read(machine: Machine, condition: str, complaint: str) -> None:
    path = machine.write(f"Match {condition}\n")
    assert machine.refusal("web") == (
        complaint,
        f"{path} line 1: Bad Match condition",
        f"{path}: terminating, 1 bad configuration options",
    )


def test_all_stands_alone(machine: Machine) -> None:
    path = machine.write("Match all host web\n")
    assert machine.refusal("web")[0] == (
        f"{path} line 1: 'all' cannot be combined with other Match attributes"
    )


def test_a_bad_network_ends_the_run(machine: Machine) -> None:
    machine.write("Match localnetwork 10.0.0.1/8\n")
    assert machine.refusal("web")[0].startswith("Invalid Match localnetwork")


def test_a_command_that_cannot_run_ends_the_run(machine: Machine) -> None:
    machine.write("Match exec true\n")
    machine.environ["SHELL"] = "/nowhere"
    assert machine.refusal("web") == (
        'Shell "/nowhere" is not executable: No such file or directory',
    )
    machine.environ["SHELL"] = "/bin/sh"
    path = machine.write('Match exec "kill -9 $$"\n')
    assert machine.refusal("web") == (
        "command 'kill -9 $$' exited abnormally",
        f"{path} line 1: match exec 'kill -9 $$' error",
    )
