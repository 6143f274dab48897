"""Process: monitor [root]. The administrator's programs that know users' keys and principals:
AuthorizedKeysCommand, AuthorizedPrincipalsCommand.

Such a program must be root's and nobody else may be able to change it; it runs as the user that is
named for it, with nothing but the tokens that it asks for, and what it says counts only if it ends
well, in time, and is not too long.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Mapping

from sshoq.auth.authorized_keys import MAX_FILE, distrust_reason
from sshoq.auth.keys import PublicKey
from sshoq.auth.ssh_certificates import Certificate
from sshoq.config.lexer import ConfigSyntaxError, split_words
from sshoq.named_tuple import NamedTuple
from sshoq.server import libc, log, signals
from sshoq.server.account import Account, find_account
from sshoq.server.config import LoginConfig
from sshoq.server.connection import ConnectionFacts
from sshoq.server.login import become_user, close_descriptors

COMMAND_TIME = 30.0
"""Seconds for a directory service far away; sshd leaves it to LoginGraceTime."""

PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


class Requester(NamedTuple):
    """For whom a program is asked: the account that is wanted, and who wants it."""

    account: Account
    config: LoginConfig
    connection: ConnectionFacts

    def tokens(self) -> dict[str, str]:
        where = self.connection
        ends = (where.peer_address, where.peer_port, where.local_address, where.local_port)
        return {
            "%": "%",
            "C": " ".join(map(str, ends)),
            "D": "",
            "U": str(self.account.uid),
            "h": self.account.home,
            "u": self.account.name,
        }


def ask_for_keys(
    requester: Requester, offered: PublicKey | None, key: PublicKey | None
) -> bytes:
    """What AuthorizedKeysCommand says: lines of authorized_keys. `offered` is `key` or its
    certificate; a Go client does not say which key it has."""
    config = requester.config
    tokens = requester.tokens()
    if offered is not None and key is not None:
        tokens |= _tokens_of(offered, key, config)
    command, user = config.authorized_keys_command, config.authorized_keys_command_user
    return _ask("AuthorizedKeysCommand", command, user, tokens, requester.account.name)


def ask_for_principals(requester: Requester, certificate: Certificate) -> bytes:
    """What AuthorizedPrincipalsCommand says: lines of AuthorizedPrincipalsFile."""
    config = requester.config
    authority = certificate.authority
    tokens = requester.tokens() | _tokens_of(certificate.public, certificate.key, config)
    tokens |= {
        "F": authority.fingerprint(config.fingerprint_hash.lower()),
        "K": authority.base64,
        "T": authority.algorithm,
        "i": certificate.key_id,
        "s": str(certificate.serial),
    }
    command, user = config.authorized_principals_command, config.authorized_principals_command_user
    return _ask("AuthorizedPrincipalsCommand", command, user, tokens, None)


def _tokens_of(offered: PublicKey, key: PublicKey, config: LoginConfig) -> dict[str, str]:
    return {
        "f": key.fingerprint(config.fingerprint_hash.lower()),
        "k": offered.base64,
        "t": offered.algorithm,
    }


# --------------------------------------------------------------------------- what is run


class _Refused(Exception):
    """The program is not run, or not believed; str() is for the log."""


def _ask(
    keyword: str,
    command: str | None,
    user: str | None,
    tokens: Mapping[str, str],
    usual_argument: str | None,
) -> bytes:
    if command is None:
        return b""
    try:
        words = _split_command(keyword, command, tokens)
        if len(words) == 1 and usual_argument is not None:
            words.append(usual_argument)
        runner = _find_runner(keyword, user, tokens)
        if not os.path.exists(words[0]):
            raise _Refused(f'Could not stat {keyword} "{words[0]}": No such file or directory')
        if reason := distrust_reason(words[0], 0, None):
            raise _Refused(f'Unsafe {keyword} "{words[0]}": {reason}')
        return _run(keyword, words, runner)
    except _Refused as refused:
        log.error(str(refused))
        return b""


def _split_command(keyword: str, command: str, tokens: Mapping[str, str]) -> list[str]:
    try:
        path, *arguments = split_words(command, comments=False)
    except ConfigSyntaxError:
        raise _Refused(f'{keyword} "{command}" contains invalid quotes') from None
    return [path, *(_expand(argument, tokens, keyword) for argument in arguments)]


def _find_runner(keyword: str, user: str | None, tokens: Mapping[str, str]) -> Account:
    if user is None:
        raise _Refused(f"No user for {keyword} specified, skipping")
    name = _expand(user, {name: tokens[name] for name in "%u"}, f"{keyword}User")
    runner = find_account(name)
    if not runner.exists:
        raise _Refused(f'Invalid {keyword}User "{name}"')
    return runner


def _expand(text: str, tokens: Mapping[str, str], keyword: str) -> str:
    parts = []
    pieces = iter(text)
    for char in pieces:
        if char == "%":
            name = next(pieces, "")
            if name not in tokens:
                raise _Refused(f"{keyword}: nothing is known for %{name}")
            char = tokens[name]
        parts.append(char)
    return "".join(parts)


# --------------------------------------------------------------------------- running it


def _run(keyword: str, words: list[str], runner: Account) -> bytes:
    """Its standard output, once it has ended with status 0."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            _become_program(words, runner, writer)
        finally:
            os._exit(127)
    os.close(writer)
    deadline = time.monotonic() + COMMAND_TIME
    try:
        output = _read_until(reader, deadline)
    finally:
        os.close(reader)
    if output is None or not _is_over(pid, deadline):
        _end(pid)
        raise _Refused(f"{keyword} {words[0]} took too long, or said too much")
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise _Refused(f"{keyword} {words[0]} exited on signal {os.WTERMSIG(status)}")
    if status:
        raise _Refused(f"{keyword} {words[0]} failed, status {os.waitstatus_to_exitcode(status)}")
    return output


def _become_program(words: list[str], runner: Account, writer: int) -> None:
    """The child: nothing of the monitor's goes along."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for source, target in ((null, 0), (writer, 1), (null, 2)):
        os.dup2(source, target)
    become_user(runner, None, None)
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    close_descriptors()
    signals.reset()
    environment = {
        "HOME": runner.home,
        "LOGNAME": runner.name,
        "PATH": PATH,
        "USER": runner.name,
    }
    os.execve(words[0], words, environment)


def _read_until(reader: int, deadline: float) -> bytes | None:
    """All up to the end; None if that does not come in time, or only after too much."""
    parts = bytearray()
    while len(parts) <= MAX_FILE and _is_ready(reader, deadline):
        part = os.read(reader, 1 << 16)
        if not part:
            return bytes(parts)
        parts += part
    return None


def _is_over(pid: int, deadline: float) -> bool:
    process = os.pidfd_open(pid)
    try:
        return _is_ready(process, deadline)
    finally:
        os.close(process)


def _end(pid: int) -> None:
    for kill in (os.kill, os.killpg):  # its group is its own, unless it has not come that far
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _is_ready(descriptor: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
