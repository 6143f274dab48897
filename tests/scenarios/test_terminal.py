"""A person at a terminal: sizes, full-screen programs, keys, and what is left behind afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.accounts import Account
from tests.needs import need_tools
from tests.processes import wait_until
from tests.programs import Client
from tests.terminal import Terminal

OpenTerminal = Callable[..., Terminal]


def test_the_remote_terminal_has_the_local_size(
    client: Client, open_terminal: OpenTerminal
) -> None:
    terminal = open_terminal(client, "stty size", rows=37, columns=101)
    terminal.expect(r"37 101\r\n")
    assert terminal.wait() == 0


def test_a_new_window_size_reaches_the_remote_terminal(
    client: Client, open_terminal: OpenTerminal
) -> None:
    terminal = open_terminal(
        client, "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
    )
    terminal.expect("ready")
    terminal.resize(50, 132)
    terminal.expect(r"50 132\r\n")
    assert terminal.wait() == 0


def test_the_terminal_type_is_passed_on(client: Client, open_terminal: OpenTerminal) -> None:
    terminal = open_terminal(client, "echo TERM=$TERM; tty; test -t 0 && test -t 1 && test -t 2")
    terminal.expect(r"TERM=xterm\r\n/dev/pts/\d+\r\n")
    assert terminal.wait() == 0


def test_a_shell_answers_and_ends_with_its_status(
    client: Client, open_terminal: OpenTerminal
) -> None:
    terminal = open_terminal(client)
    terminal.expect(r"\$ ")
    terminal.send("echo $((6*7)); exit 3\n")
    terminal.expect(r"\n42\r\n")
    terminal.expect(r"Connection to 127\.0\.0\.1 closed\.\r*\n")
    assert terminal.wait() == 3


def test_end_of_input_leaves_the_shell(client: Client, open_terminal: OpenTerminal) -> None:
    terminal = open_terminal(client)
    terminal.expect(r"\$ ")
    terminal.send(b"\x04")
    assert terminal.wait() == 0


def test_the_interrupt_key_stops_the_program_and_not_the_client(
    client: Client, open_terminal: OpenTerminal
) -> None:
    terminal = open_terminal(client)
    terminal.expect(r"\$ ")
    terminal.send("sh -c 'echo begun; exec cat'\n")  # it is in the foreground when it says so
    terminal.expect(r"\nbegun\r\n")
    terminal.send(b"\x03")
    terminal.expect(r"\$ ")
    terminal.send("echo status $?; exit\n")
    terminal.expect(r"\nstatus 130\r\n")


def test_less_pages_through_a_file(client: Client, open_terminal: OpenTerminal) -> None:
    need_tools("less")
    terminal = open_terminal(client, "seq 1 500 | less -K")
    terminal.expect(r"\n22\r\n|\n23\r\n")
    terminal.send("G")
    terminal.expect(r"500\r\n")
    terminal.send("q")
    assert terminal.wait() == 0


def test_vi_edits_a_file(client: Client, open_terminal: OpenTerminal, account: Account) -> None:
    need_tools("vi")
    terminal = open_terminal(client, "rm -f edited.txt; vi -u NONE -n edited.txt")
    terminal.expect("edited.txt")
    terminal.send("iwritten in vi")
    terminal.expect("written in vi")
    terminal.send("\x1b:wq\r")
    assert terminal.wait() == 0
    assert (account.home / "edited.txt").read_text() == "written in vi\n"


def test_a_flood_of_output_arrives_whole(client: Client, open_terminal: OpenTerminal) -> None:
    terminal = open_terminal(client, "stty -opost; seq 1 40000; echo finished")
    terminal.expect(r"\n39999\n40000\nfinished\n", timeout=30)
    assert terminal.wait() == 0


def test_typed_bytes_arrive_unchanged(client: Client, open_terminal: OpenTerminal) -> None:
    """Every byte that a raw terminal passes, so also those that are special to some layer."""
    terminal = open_terminal(client, "stty raw -echo; echo go; head -c 255 | od -An -tx1 -v")
    terminal.expect("go")
    terminal.send(bytes(range(1, 256)))
    output = terminal.read_to_end().split(b"Connection")[0]
    assert bytes.fromhex(output.decode()) == bytes(range(1, 256))


@pytest.mark.parametrize("ending", ["exit\n", "\x04", "kill -9 $$\n", "~.", "exec true\n"])
def test_the_local_terminal_is_put_back(
    client: Client, open_terminal: OpenTerminal, ending: str
) -> None:
    terminal = open_terminal(client, flags=())
    before = terminal.first_attributes
    terminal.expect(r"\$ ")
    assert terminal.attributes() != before
    terminal.send(ending)
    terminal.wait()
    assert terminal.attributes() == before


def test_the_escape_character_ends_the_connection(
    client: Client, open_terminal: OpenTerminal
) -> None:
    terminal = open_terminal(client)
    terminal.expect(r"\$ ")
    terminal.send("\r~.")
    terminal.expect(r"Connection to 127\.0\.0\.1 closed\.")
    assert terminal.wait() == 255


def test_the_escape_character_shows_its_help(client: Client, open_terminal: OpenTerminal) -> None:
    terminal = open_terminal(client)
    terminal.expect(r"\$ ")
    terminal.send("\r~?")
    terminal.expect(r"Supported escape sequences:\r\n")
    terminal.expect(r"only recognized immediately after newline\.\)\r\n")
    terminal.send("\recho still here; exit\r")
    terminal.expect(r"\nstill here\r\n")
    assert terminal.wait() == 0


def test_a_doubled_escape_character_is_typed_once(
    client: Client, open_terminal: OpenTerminal
) -> None:
    terminal = open_terminal(client, "head -n 1 | sed 's/^/got /'")
    terminal.send("~~x\r")
    terminal.expect(r"got ~x\r\n")
    assert terminal.wait() == 0


def test_without_a_local_terminal_there_is_no_remote_one(client: Client) -> None:
    done = client.run("tty", flags=["-t"])
    assert b"not a tty" in done.stdout
    assert b"Pseudo-terminal will not be allocated because stdin is not a terminal." in done.stderr


def test_a_remote_terminal_can_be_forced(client: Client) -> None:
    assert client.output("tty", flags=["-tt"]).startswith(b"/dev/pts/")


def test_no_terminal_when_it_is_declined(client: Client, open_terminal: OpenTerminal) -> None:
    terminal = open_terminal(client, "tty", flags=("-T",))
    terminal.expect("not a tty")
    assert terminal.wait() == 1


def test_the_terminal_belongs_to_the_user(client: Client, account: Account) -> None:
    words = client.output('stat -c "%U %a" "$(tty)"', flags=["-tt"]).split()
    assert words[0].decode() == account.name
    assert words[1] in (b"620", b"600")


def test_hanging_up_reaches_what_runs_in_the_terminal(
    client: Client, open_terminal: OpenTerminal, account: Account
) -> None:
    """~. must not leave a program that would have ended with the terminal."""
    terminal = open_terminal(client)
    terminal.expect(r"\$ ")
    terminal.send("trap 'echo hung up > hangup.txt; exit' HUP; rm -f hangup.txt; echo s''et\r")
    terminal.expect("\nset\r\n")
    terminal.send("\r~.")
    terminal.wait()
    path = account.home / "hangup.txt"
    wait_until(lambda: path.exists() and path.read_text() == "hung up\n", 30, "HUP arrived")
