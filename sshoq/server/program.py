"""Process: a user's program, from the session leader's fork to exec [the user].

What sshd's do_child does, in its order and with its words. Whatever goes wrong is said on the
program's own standard error, where the user sees it.
"""

import contextlib
import fcntl
import os
import shlex
import stat
import termios
from collections.abc import Callable
from typing import NoReturn

from sshoq.named_tuple import NamedTuple
from sshoq.server import libc, signals
from sshoq.server.account import Account
from sshoq.server.displays import Display
from sshoq.server.environment import MAX_FILE, Variable, parse_environment_file
from sshoq.server.login import close_descriptors

USER_RC = ".ssh/rc"
SYSTEM_RC = "/etc/ssh/sshrc"
MOTD = "etc/motd"
NOLOGIN = ("etc/nologin", "run/nologin")
PASSWD = "/usr/bin/passwd"
HUSHLOGIN = ".hushlogin"
MAX_TEXT = 1 << 20

SIGHUP = 1
NOLOGIN_STATUS = 254


class Program(NamedTuple):
    """What to run, and all that the child must know; it asks nobody any more."""

    account: Account
    root: int
    """A descriptor of the machine's root directory: some files count although there is a chroot."""
    command: bytes | None
    """None: the login shell."""
    environment: dict[bytes, bytes]
    is_subsystem: bool
    only_sftp: bool
    """A forced internal-sftp met something else."""
    must_change_password: bool
    check_nologin: bool
    """Without PAM, which has pam_nologin."""
    in_chroot: bool
    allows_user_rc: bool
    display: Display | None
    messages: bytes
    shows_motd: bool
    standard: tuple[int, int, int]
    """The descriptors that become 0, 1 and 2."""
    has_terminal: bool
    gate: tuple[int, int] | None
    """A pipe out of which, once the login is on record, comes the line about the last one."""
    inside: Callable[[], NoReturn] | None = None
    """What to do in this process, instead of running the command."""


def run_program(program: Program) -> NoReturn:
    """The child's whole life before exec."""
    try:
        _become_session(program)
        last_login = _pass_gate(program.gate)
        close_descriptors((program.root,))
        _refuse_if_closed(program)
        if program.must_change_password:
            _change_password(program.has_terminal)
        _show_texts(program, last_login)
        _enter_home(program)
        if program.only_sftp:
            _end("This service allows sftp connections only.", 1)
        _run_rc_files(program)
        if program.inside is not None:
            # Or its memory would be a file to be written: /proc/self/mem.
            libc.prctl(libc.PR_SET_DUMPABLE, 0)
            program.inside()
        _execute(program)
    except OSError as error:
        _end(f"{error.filename or 'sshoq-server'}: {error.strerror}", 1)
    except Exception as error:  # a bug, which must not run on as a second leader
        _end(f"sshoq-server: {error!r}", 1)


def _become_session(program: Program) -> None:
    """A session of its own, so that its process group can be signalled, and the terminal its
    own."""
    signals.reset()
    os.setsid()
    # Should the leader be killed, nobody else would hang this program up at once.
    libc.prctl(libc.PR_SET_PDEATHSIG, SIGHUP)
    if program.has_terminal:
        fcntl.ioctl(program.standard[0], termios.TIOCSCTTY, 0)
    for number, descriptor in enumerate(program.standard):
        os.dup2(descriptor, number, inheritable=True)


def _pass_gate(gate: tuple[int, int] | None) -> bytes:
    if gate is None:
        return b""
    reader, writer = gate
    os.close(writer)  # or this process itself would keep it open
    parts = []
    while part := os.read(reader, 4096):
        parts.append(part)
    return b"".join(parts)


def _refuse_if_closed(program: Program) -> None:
    if not program.check_nologin or program.account.uid == 0:
        return
    for path in NOLOGIN:
        with contextlib.suppress(FileNotFoundError):
            _print(_read_text(program.root, path), 2)
            os._exit(NOLOGIN_STATUS)


def _change_password(has_terminal: bool) -> NoReturn:
    _print(b"WARNING: Your password has expired.\n", 2)
    if not has_terminal:
        _end("Password change required but no TTY available.", 1)
    _print(b"You must change your password now and login again!\n", 2)
    try:
        os.execv(PASSWD, ["passwd"])
    except OSError as error:
        _end(f"passwd: {error.strerror}", 1)


def _show_texts(program: Program, last_login: bytes) -> None:
    """What greets a login without a command; on a terminal also the last login and the motd."""
    hush = os.path.join(program.account.home, HUSHLOGIN)
    if program.command is not None or os.path.exists(hush):
        return
    _print(program.messages, 1)
    if not program.has_terminal:
        return
    _print(last_login, 1)
    if program.shows_motd:
        with contextlib.suppress(OSError):
            _print(_read_text(program.root, MOTD), 1)


def _enter_home(program: Program) -> None:
    home = program.account.home
    try:
        os.chdir(home)
    except OSError as error:
        if not program.in_chroot:
            _print(
                os.fsencode(f"Could not chdir to home directory {home}: {error.strerror}\n"), 2
            )


def _run_rc_files(program: Program) -> None:
    """~/.ssh/rc through the user's shell, or else the system's; neither for a subsystem. Whichever
    runs is told of the display, and has to tell xauth; if none does, xauth is told here."""
    shell = program.account.login_shell
    environment, display = program.environment, program.display
    user_rc = os.path.join(program.account.home, USER_RC)
    said = b"" if display is None else display.authorization
    if program.allows_user_rc and not program.is_subsystem and os.path.exists(user_rc):
        command = os.fsencode(f"/bin/sh {shlex.quote(user_rc)}")
        _run(shell, [os.fsencode(shell), b"-c", command], environment, said)
    elif not program.is_subsystem and os.path.exists(SYSTEM_RC):
        _run("/bin/sh", [b"/bin/sh", os.fsencode(SYSTEM_RC)], environment, said)
    elif display is not None:
        words = [os.fsencode(display.xauth), b"-q", b"-"]
        _run(display.xauth, words, environment, display.xauth_commands)


def _run(path: str, arguments: list[bytes], environment: dict[bytes, bytes], said: bytes) -> None:
    """Run to its end, with `said` on its standard input, which a pipe has room for; a failure is no
    reason to stop."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.write(writer, said)
    os.close(writer)
    pid = os.fork()
    if pid:
        os.close(reader)
        os.waitpid(pid, 0)
        return
    try:
        os.dup2(reader, 0)
        os.execve(path, arguments, environment)
    except OSError as error:
        _end(f"Could not run {path}: {error.strerror}", 1)


def _execute(program: Program) -> NoReturn:
    shell = program.account.login_shell
    name = os.fsencode(os.path.basename(shell))
    # The dash says "login shell"; a command gets the plain name.
    arguments = [b"-" + name] if program.command is None else [name, b"-c", program.command]
    try:
        os.execve(shell, arguments, program.environment)
    except OSError as error:
        _end(f"{shell}: {error.strerror}", 1)


# --------------------------------------------------------------------------- before the fork


def read_user_environment(account: Account) -> tuple[list[Variable], list[int]]:
    """~/.ssh/environment; nothing if there is none. Opening must not wait for a FIFO's writer."""
    path = os.path.join(account.home, ".ssh/environment")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return [], []
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return [], []
        return parse_environment_file(file.read(MAX_FILE))


# --------------------------------------------------------------------------- talking to the user


def _read_text(root: int, path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
    with open(descriptor, "rb") as file:
        return file.read(MAX_TEXT)


def _print(text: bytes, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        while text:
            text = text[os.write(descriptor, text) :]


def _end(text: str, status: int) -> NoReturn:
    _print(os.fsencode(text) + b"\n", 2)
    os._exit(status)
