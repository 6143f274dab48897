"""Running a command: what goes in, what comes out, and with which status it ends."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess

import pytest

from tests.accounts import Account
from tests.processes import wait_until
from tests.programs import PROGRAMS, Client
from tests.scenarios.conftest import ClientFactory, ServerFactory, usable

BLOB = bytes(os.urandom(1 << 20))


def test_a_command_prints_its_output(client: Client) -> None:
    assert client.output("echo", "hello,", "world") == b"hello, world\n"


def test_words_are_joined_and_split_again_by_the_remote_shell(client: Client) -> None:
    assert client.output("printf '%s|'", "a  b", "$((1+2))", "';'") == b"a|b|3|;|"


@pytest.mark.parametrize("status", [0, 1, 4, 5, 44, 255])
def test_the_exit_status_is_the_commands(client: Client, status: int) -> None:
    assert client.run(f"exit {status}").returncode == status


@pytest.mark.parametrize("status", [0, 1, 4, 5, 44])
def test_the_exit_status_is_right_after_closed_streams(client: Client, status: int) -> None:
    command = f"exec sh -c 'exec >/dev/null 2>/dev/null </dev/null; sleep 0.1; exit {status}'"
    assert client.run(command).returncode == status


def test_a_missing_command_is_127(client: Client) -> None:
    done = client.run("no-such-command-here")
    assert done.returncode == 127
    assert b"no-such-command-here" in done.stderr
    assert done.stdout == b""


def test_death_by_signal_is_255(client: Client) -> None:
    done = client.run("kill -KILL $$")
    assert (done.returncode, done.stdout) == (255, b"")


def test_the_end_of_stdin_reaches_the_command(client: Client) -> None:
    assert client.output("cat; echo done", input=b"some input") == b"some inputdone\n"


def test_no_stdin_is_an_empty_stdin(client: Client) -> None:
    assert client.output("wc -c", flags=["-n"]).strip() == b"0"


def test_a_megabyte_arrives_unharmed_at_the_command(client: Client) -> None:
    digest = hashlib.sha256(BLOB).hexdigest().encode()
    assert client.output("sha256sum", input=BLOB).split()[0] == digest


def test_a_megabyte_comes_back_unharmed(client: Client) -> None:
    assert client.output("cat", input=BLOB) == BLOB


def test_the_command_may_ignore_its_stdin(client: Client) -> None:
    assert client.output("echo early", input=BLOB) == b"early\n"


def test_stderr_comes_apart_from_stdout(client: Client) -> None:
    done = client.run("echo out; echo err >&2; echo out again; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\nout again\n", b"err\n", 3)


def test_stderr_goes_on_after_stdout_was_closed(client: Client) -> None:
    done = client.run("exec >/dev/null; head -c 200000 /dev/zero >&2; exit 2")
    assert (len(done.stderr), done.returncode) == (200_000, 2)


def test_stderr_is_unharmed_when_both_flow(client: Client) -> None:
    done = client.run("cat | tee /dev/stderr", input=BLOB[:300_000])
    assert done.stdout == BLOB[:300_000]
    assert done.stderr == BLOB[:300_000]


@pytest.mark.parametrize(("stream", "word"), [("stdout", "echo in"), ("stderr", "echo in >&2")])
def test_of_a_full_disk_nothing_is_said(client: Client, stream: str, word: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            client.command(f"{word}; exit 7", flags=["-o", "BatchMode=yes"]),
            stdin=subprocess.DEVNULL,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full},  # type: ignore[call-overload]  # by name
            env=client.environment(),
            timeout=60,
        )
    assert (done.returncode, done.stdout or b"", done.stderr or b"") == (7, b"", b"")


def test_a_reader_that_stops_ends_an_endless_command(client: Client) -> None:
    """`ssh host yes | head` must end, locally and at the far side."""
    running = client.start("echo $$; exec yes")
    assert running.stdout is not None
    far_pid = int(running.stdout.readline())
    assert running.stdout.readline() == b"y\n"
    running.stdout.close()
    running.wait(timeout=30)
    wait_until(lambda: not os.path.exists(f"/proc/{far_pid}"), 30, "yes has ended")
    close(running)


def test_a_slow_writer_ends_when_its_reader_has_gone(client: Client) -> None:
    """`ssh host tail -f log | head -1`: after a few lines more, and not after a megabyte."""
    running = client.start("echo $$; while echo tick; do sleep 0.1; done")
    assert running.stdout is not None
    far_pid = int(running.stdout.readline())
    running.stdout.close()
    assert running.wait(timeout=30) == 255  # by SIGPIPE, which has no status
    wait_until(lambda: not os.path.exists(f"/proc/{far_pid}"), 30, "the writer has ended")
    close(running)


def test_a_writer_that_ignores_the_broken_pipe_ends_in_its_own_way(client: Client) -> None:
    """It is not hung up: its status still arrives, and with ours its errors."""
    running = client.start(
        "trap '' PIPE; while echo tick 2>/dev/null; do sleep 0.1; done; echo bye >&2; exit 3"
    )
    assert running.stdout is not None
    assert running.stderr is not None
    assert running.stdout.readline() == b"tick\n"
    running.stdout.close()
    assert running.wait(timeout=30) == 3
    said = running.stderr.read()
    assert said == b"bye\n" or client.server.programs.name == "openssh"  # whose 9.2 loses it
    close(running)


def test_a_background_job_that_holds_stdout_keeps_the_session_open(client: Client) -> None:
    assert client.output("(sleep 1; echo late) & echo soon") == b"soon\nlate\n"


def test_a_background_job_with_closed_streams_does_not_hold_the_session(
    client: Client, account: Account
) -> None:
    """The job waits until its fifo is written to, which happens after the session has ended."""
    fifo = account.home / "fifo"
    os.mkfifo(fifo)
    os.chown(fifo, account.uid, account.gid)
    done = client.output(f"cat {fifo} >/dev/null 2>&1 </dev/null & echo $!")
    job = int(done)
    assert os.path.exists(f"/proc/{job}")
    fifo.write_bytes(b"")
    wait_until(lambda: not os.path.exists(f"/proc/{job}"), 30, "the job has ended")
    fifo.unlink()


def test_a_client_that_is_shot_says_goodbye(
    start_server: ServerFactory, connect: ClientFactory, account: Account
) -> None:
    """rsync ends ssh with SIGUSR1, and means the program at the other end to hear of it."""
    client = connect(start_server(usable(PROGRAMS["sshoq"]), ["LogLevel DEBUG"]), account)
    process = client.start("echo ready; exec sleep 300")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    process.communicate()
    assert process.returncode == -signal.SIGUSR1
    told = "connection over: closed by the peer (0x100 )"
    wait_until(lambda: told in client.server.log(), 30, "the server has been told")


def test_a_long_command_line_is_not_cut(client: Client) -> None:
    word = "x" * 30_000
    assert client.output(f"printf %s {word} | wc -c").strip() == b"30000"


def test_binary_arguments_survive(client: Client) -> None:
    assert client.output("printf %s 'äöü€'").decode() == "äöü€"


def test_setenv_reaches_a_command_when_the_server_accepts_it(client: Client) -> None:
    flags = ["-o", "SetEnv=SCENARIO_ONE=1", "-o", "SetEnv=UNASKED=1"]
    assert client.output("echo $SCENARIO_ONE-$UNASKED", flags=flags[:2]) == b"1-\n"
    assert client.output("echo $SCENARIO_ONE-$UNASKED", flags=flags[2:]) == b"-\n"


def test_sendenv_sends_what_is_in_the_environment(client: Client) -> None:
    flags = ["-o", "SendEnv=SCENARIO_*"]
    done = client.output("echo $SCENARIO_TWO", flags=flags, env={"SCENARIO_TWO": "two"})
    assert done == b"two\n"


def test_ten_commands_at_once_do_not_mix(client: Client) -> None:
    running = [client.start(f"for i in 1 2 3 4 5; do echo {n} $i; done") for n in range(10)]
    for number, process in enumerate(running):
        output, errors = process.communicate(timeout=60)
        expected = "".join(f"{number} {i}\n" for i in range(1, 6)).encode()
        assert (output, process.returncode) == (expected, 0), errors


def test_a_subsystem_that_is_not_there_is_refused(client: Client) -> None:
    done = client.run("no-such-subsystem", flags=["-s"])
    assert done.returncode == 255
    assert b"subsystem request failed on channel 0" in done.stderr


def close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stderr):
        if stream is not None:
            stream.close()
